// Events as lines, the newest first, as they happen.
import { call, path, query } from "../api.js";
import { useApp } from "../context.js";
import { html, useEffect, useRef, useState } from "../html.js";
import { iso, moment, time } from "../format.js";
import { useNews } from "../stream.js";
import { Empty, Failure, Bar } from "./states.js";
import { Glyph } from "./status.js";

/** @type {[RegExp, string][]} */
const KINDS = [
  [/failed|crashed|rejected/, "failed"], [/finished/, "finished"], [/committed/, "accepted"], [/evaluated/, "evaluating"],
  [/started|opened/, "running"], [/connected/, "connected"], [/left|revoke/, "offline"], [/stopped/, "stopped"],
];
export const stateOf = (kind) => KINDS.find(([pattern]) => pattern.test(kind))?.[1] ?? "created";

/**
 * {events, error, reload}: the newest events that pass, newest first, and each new one as it happens: none twice, none missed.
 * most: how many are kept; filter: query values of the list of events; passes: whether a new one belongs to them.
 */
export function useEvents({ most = 100, filter = {}, passes = () => true, follow = true }) {
  const { project } = useApp();
  const [events, set] = useState(null);
  const [error, setError] = useState(null);
  const cursor = useRef(0);
  const key = JSON.stringify(filter);
  const load = async () => {
    try {
      const page = await call(path`/projects/${project}/events` + query({ ...filter, sort: "-id", limit: most }));
      cursor.current = Math.max(page.cursor, page.items[0]?.id ?? 0);
      setError(null);
      set(page.items);
    } catch (failure) {
      setError(failure);
    }
  };
  useEffect(() => { load(); }, [key, project]);
  useNews(({ news, gap }) => {
    if (gap) load();
    if (!news || !follow) return;
    const fresh = news.map(({ event }) => event).filter((event) => event && event.id > cursor.current);
    if (!fresh.length) return;
    cursor.current = fresh.at(-1).id;
    const mine = fresh.filter(passes).reverse();
    if (mine.length) set((before) => before && [...mine, ...before].slice(0, most));
  });
  return { events, error, reload: load };
}

export function EventLines({ session, most = 50, filter, passes, follow }) {
  const found = useEvents({ most, follow, filter: filter ?? (session ? { session } : {}), passes: passes ?? (session ? (event) => event.session === session : undefined) });
  if (found.error && !found.events) return html`<${Failure} error=${found.error} retry=${found.reload} />`;
  if (!found.events) return html`<ul class="events" aria-busy="true">${[220, 320, 180].map((width) => html`<li key=${width}><${Bar} width=${56} /><span></span><span><${Bar} width=${width} /></span></li>`)}</ul>`;
  if (!found.events.length) return html`<${Empty} icon="list" title="Nothing has happened yet">Events appear here as they happen.<//>`;
  return html`<ol class="events">${found.events.map((event) => html`<${Line} key=${event.id} event=${event} />`)}</ol>`;
}

function Line({ event }) {
  const traceback = event.data?.traceback;
  return html`<li data-event=${event.id}><time dateTime=${iso(event.at)} title=${moment(event.at)}>${time(event.at)}</time><${Glyph} state=${stateOf(event.kind)} />
    <div class="wrap">${event.message}${traceback && html`<details><summary class="second">Traceback</summary><pre class="scroll" tabindex="0">${traceback}</pre></details>`}</div></li>`;
}
