// Sessions side by side: their curves over each other, and the settings in which they differ.
import { path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { count, metric, plural, span, title } from "../format.js";
import { html, useEffect, useMemo, useState } from "../html.js";
import { Chart, SERIES } from "../parts/chart.js";
import { useCurves } from "../parts/curves.js";
import { Card, Title } from "../parts/page.js";
import { useTheme } from "../parts/shell.js";
import { Empty, Failure, Bar } from "../parts/states.js";
import { Status } from "../parts/status.js";
import { Choose, Rows, SaveList } from "../parts/table.js";
import { setQuery, to } from "../router.js";
import { ranked } from "./session.js";

const DRAWN = 12; // metrics that are drawn
const MOST = 8;

export function Compare({ route }) {
  const { project } = useApp();
  const theme = useTheme();
  const ids = (route.query.ids ?? "").split(",").filter(Boolean).slice(0, MOST);
  const others = useResource(path`/projects/${project}/sessions?limit=200&sort=-created_at`);
  const [found, gather] = useState(new Map());
  const [hidden, hide] = useState([]);
  const set = (ids_) => setQuery({ ids: ids_.join(",") || null });
  const known = ids.map((id) => found.get(id)).filter(Boolean);
  const waiting = ids.some((id) => !found.has(id)); // null: it cannot be had
  const shown = known.filter(({ session }) => !hidden.includes(session.id));
  const label = (session) => `${session.name} ${session.id.slice(0, 4)}`;
  const colour = (id) => SERIES[ids.indexOf(id) % SERIES.length];
  const charts = useMemo(() => {
    const made = new Map();
    for (const { session, curves } of shown) {
      for (const curve of ranked(curves)) {
        const key = curve.name;
        made.set(key, [...(made.get(key) ?? []), { id: session.id, label: label(session), colour: colour(session.id), rounds: curve.rounds, values: curve.values }]);
      }
    }
    return [...made].sort(([a], [b]) => (a === "accuracy" ? -1 : b === "accuracy" ? 1 : a.localeCompare(b)));
  }, [found, hidden.join(), ids.join()]);
  const differing = useMemo(() => differences(known.map(({ session }) => session)), [found, ids.join()]);
  const metrics = charts.map(([name]) => name).slice(0, 4);
  const last = (one, name) => ranked(one.curves).find((curve) => curve.name === name)?.values.findLast((value) => value !== null);
  const left = (others.data?.items ?? []).filter((one) => !ids.includes(one.id));
  return html`<div class="stack">
    ${ids.map((id) => html`<${Fetched} key=${id} id=${id} onFound=${(one) => gather((before) => new Map(before).set(id, one))} />`)}
    <${Title} title="Compare sessions" actions=${left.length > 0 && ids.length < MOST && html`<${Choose} label="Add a session" value="" onChange=${(id) => id && set([...ids, id])} options=${[["", "Add a session …"], ...left.map((one) => [one.id, label(one)])]} />`}>${plural(ids.length, "session")}; the table chooses which are drawn<//>
    ${!ids.length && html`<section class="card"><${Empty} icon="git-compare" title="Nothing to compare yet" actions=${html`<a class="button" href=${to("p", project, "sessions")}>Choose sessions</a>`}>Choose two or more in the list of sessions, or add them here.<//></section>`}
    ${charts.length > 0 && html`<div class="grid-2">${charts.slice(0, DRAWN).map(([name, series]) => html`<${Chart} key=${name} title=${title(name)} name=${name} series=${series} note="by round" file=${`compare-${name}`} theme=${theme} />`)}</div>`}
    ${(waiting || known.length > 0) && html`<${Card} title="Sessions" right=${html`<${SaveList} name="compared-sessions" fetch=${async () => known} columns=${[["id", ({ session }) => session.id], ["name", ({ session }) => session.name], ["state", ({ session }) => session.state], ["rounds", ({ session }) => session.round], ...metrics.map((name) => [name, (one) => last(one, name)])]} />`}>
      ${known.length === 0 ? html`<div class="body" aria-busy="true"><${Bar} width=${320} /></div>` : html`<${Rows} saved label="Compared sessions" rows=${known} identify=${({ session }) => session.id} columns=${[
        { id: "draw", label: "", name: "Draw", show: ({ session }) => html`<input type="checkbox" aria-label=${`Draw ${label(session)}`} checked=${!hidden.includes(session.id)} onChange=${() => hide(hidden.includes(session.id) ? hidden.filter((one) => one !== session.id) : [...hidden, session.id])} />` },
        { id: "name", label: "Session", sort: "name", value: ({ session }) => session.name, show: ({ session }) => html`<i class="swatch" style=${{ background: `var(--${colour(session.id)})` }}></i><a class="name" href=${to("p", project, "sessions", session.id)}>${session.name}</a> <span class="muted mono">${session.id.slice(0, 4)}</span>` },
        { id: "state", label: "Status", sort: "state", value: ({ session }) => session.state, show: ({ session }) => html`<${Status} state=${session.state} />` },
        { id: "round", label: "Rounds", n: true, sort: "round", value: ({ session }) => session.round, show: ({ session }) => `${count(session.round)} / ${count(session.spec.rounds)}` },
        ...metrics.map((name) => ({ id: name, label: title(name), n: true, sort: `m-${name}`, value: (one) => last(one, name) ?? null, show: (one) => metric(name, last(one, name)) })),
        { id: "took", label: "Took", n: true, sort: "took", value: ({ session }) => (session.ended_at ?? Date.now() / 1000) - (session.started_at ?? 0), show: ({ session }) => (session.started_at ? span((session.ended_at ?? Date.now() / 1000) - session.started_at) : "—") },
        { id: "out", label: "", name: "Remove", show: ({ session }) => html`<button class="button small quiet" onClick=${() => set(ids.filter((one) => one !== session.id))}>Remove</button>` },
      ]} />`}<//>`}
    ${known.length > 1 && html`<${Card} title="Settings that differ" note=${differing.length ? plural(differing.length, "setting") : ""}>
      <${Rows} label="Settings that differ" rows=${differing} identify=${(row) => row.name} size=${100} columns=${[
        { id: "name", label: "Setting", show: (row) => html`<span class="name">${row.name}</span>` },
        ...known.map(({ session }, k) => ({ id: session.id, label: label(session), show: (row) => html`<code>${row.values[k]}</code>` })),
      ]} empty=${html`<${Empty} icon="check" title="They have the same settings" />`} /><//>`}
  </div>`;
}

function Fetched({ id, onFound }) {
  const { project } = useApp();
  const session = useResource(path`/projects/${project}/sessions/${id}`, { on: ({ event }) => event?.session === id && /^session\.|^round\.committed/.test(event.kind) });
  const { curves } = useCurves(project, id);
  useEffect(() => {
    if (session.data && curves) onFound({ session: session.data, curves });
    else if (session.error) onFound(null);
  }, [session.data, session.error, curves]);
  return session.error ? html`<section class="card"><${Failure} error=${session.error} retry=${session.reload} /></section>` : null;
}

function flat(value, prefix = "") {
  if (value === null || typeof value !== "object" || Array.isArray(value)) return [[prefix, JSON.stringify(value)]];
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, prefix ? `${prefix}.${name}` : name));
}

function differences(sessions) {
  const all = sessions.map((session) => new Map(flat({ ...session.spec, package: session.package?.slice(0, 10) ?? null, seed_model: session.seed_model?.slice(0, 10) ?? null, keep: session.keep })));
  const names = [...new Set(all.flatMap((one) => [...one.keys()]))].filter((name) => name !== "name");
  return names.map((name) => ({ name, values: all.map((one) => one.get(name) ?? "—") })).filter(({ values }) => new Set(values).size > 1);
}
