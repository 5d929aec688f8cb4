// Models: the trail, and one model back to its seed with who contributed.
import { address, call, path, query } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { bytes, count, metric, plural, title } from "../format.js";
import { html, useEffect, useMemo, useState } from "../html.js";
import { Command } from "../parts/acts.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Title } from "../parts/page.js";
import { SaveDrawing } from "../parts/picture.js";
import { Bar, Empty, Failure, Loaded } from "../parts/states.js";
import { Ago, Pill, Status } from "../parts/status.js";
import { Choose, List, Rows, SaveList, everything } from "../parts/table.js";
import { to } from "../router.js";

const changes = ({ event }) => event && /^round\.committed|^session\./.test(event.kind);
const MOST = 5000; // contributions that are counted

export function Models() {
  const { project, can } = useApp();
  const base = path`/projects/${project}/models`;
  const [kind, choose] = useState("");
  const filter = kind === "seeds" ? { session: "" } : {};
  return html`<div class="stack"><${Title} title="Models">Seeds, and the model of every committed round<//>
    <${Card} title="The trail" note="the newest first" right=${html`<${Choose} label="Kind" value=${kind} onChange=${choose} options=${[["", "All models"], ["seeds", "seeds"]]} />
      <${SaveList} name=${`models-${project}`} fetch=${() => everything(base, filter)} columns=${["id", "name", "session", "round", "parent", "size", "created_at"].map((name) => [name, (row) => row[name]])} />`}>
      <${List} saved path=${base} filter=${filter} sort="-created_at" on=${changes} label="Models" identify=${(one) => `${one.id}/${one.session}/${one.round}`} columns=${[
        { id: "id", label: "Model", show: (one) => html`<a class="mono" href=${to("p", project, "models", one.id)}>${one.id.slice(0, 12)}</a>` },
        { id: "name", label: "Name", sort: "name", show: (one) => one.name || "—" },
        { id: "session", label: "Session", sort: "session", show: (one) => (one.session ? html`<a class="mono" href=${to("p", project, "sessions", one.session)}>${one.session.slice(0, 8)}</a>` : "uploaded seed") },
        { id: "round", label: "Round", n: true, sort: "round", show: (one) => count(one.round) },
        { id: "kept", label: "Bytes", show: (one) => html`<${Status} state=${one.pruned_at ? "pruned" : "kept"} />` },
        { id: "size", label: "Size", n: true, sort: "size", show: (one) => (one.pruned_at ? "—" : bytes(one.size)) },
        { id: "at", label: "Made", n: true, sort: "created_at", show: (one) => html`<${Ago} at=${one.created_at} />` },
        { id: "get", label: "", name: "Download", show: (one) => can("download") && !one.pruned_at && html`<a class="button small quiet" href=${address(`${base}${path`/${one.id}/file`}`)} download aria-label=${`Download ${one.id.slice(0, 12)}`}><${Icon} name="download" /></a>` },
      ]} empty=${html`<${Empty} icon="cube" title="No model yet" actions=${can("run") && html`<a class="button primary" href=${to("p", project, "sessions", "new")}>Start a session</a>`}>Each round of a session makes one.<//>`} />
    <//></div>`;
}

export function Model({ route }) {
  const { project, can } = useApp();
  const id = route.parts[3];
  const base = path`/projects/${project}/models/${id}`;
  const model = useResource(base);
  const above = useResource(`${base}/ancestors?limit=1000`);
  const below = useResource(`${base}/descendants?limit=1000`, { on: changes });
  const round = useResource(model.data?.session && model.data.round ? path`/projects/${project}/sessions/${model.data.session}/rounds/${model.data.round}` : null);
  const judged = useResource(model.data?.session && model.data.round ? path`/projects/${project}/metrics` + query({ session: model.data.session, round: model.data.round, client: ["", "central"], kind: "evaluate", limit: 100 }) : null);
  return html`<${Loaded} resource=${model} level=${1} skeleton=${html`<${Title} title=${id.slice(0, 12)} />`}>${(one) => html`<div class="stack">
    <${Title} title=${one.name || one.id.slice(0, 12)} state=${html`<${Pill} state=${one.pruned_at ? "pruned" : "kept"} />`} actions=${html`
        ${can("download") && !one.pruned_at && html`<a class="button primary" href=${address(`${base}/file`)} download><${Icon} name="download" />Download</a>`}
        ${one.session && html`<a class="button" href=${to("p", project, "sessions", one.session)}><${Icon} name="player-play" />Its session</a>`}`}>
      ${one.session ? `Made by round ${count(one.round)},` : "An uploaded seed,"} <${Ago} at=${one.created_at} />
    <//>
    <${Figures} items=${[
      { label: "Size", value: bytes(one.size), sub: "safetensors" },
      { label: "Round", value: count(one.round), sub: one.session ? `of session ${one.session.slice(0, 8)}` : "it begins a trail" },
      { label: "Rounds from its seed", value: above.data ? count(above.data.total) : html`<${Bar} width=${40} />`, sub: "models before it" },
      { label: "Made from it", value: below.data ? count(below.data.total) : html`<${Bar} width=${40} />`, sub: "models after it" },
      ...(judged.data?.items ?? []).filter((row, k, all) => all.findIndex((other) => other.name === row.name) === k).slice(0, 2).map((row) => ({ label: title(row.name), value: metric(row.name, row.value), sub: row.client || "mean over clients" })),
      ...(round.data ? [{ label: "Updates in it", value: count(round.data.accepted), sub: `${count(round.data.weight)} examples` }] : []),
    ]} />
    <${Card} title="Lineage" note="from the seed to this model, and on" right=${html`<${SaveDrawing} title="Lineage" />`}><${Loaded} resource=${above} skeleton=${html`<div class="body"><${Bar} width=${300} /></div>`}>${(trail) => html`<${Lineage} model=${one} above=${trail.items} below=${below.data?.items ?? []} />`}<//><//>
    <${Contributors} model=${one} above=${above.data?.items} />
    <${Card} title="Address"><div class="body"><p class="second">blake3 of the file: whoever has the file can check that it is this one.</p><${Command} text=${one.id} label="Copy the digest" />
      ${round.data && html`<dl class="defs" style=${{ marginTop: "14px" }}><dt>Link of its round</dt><dd class="mono">${round.data.link}</dd><dt>Signed by</dt><dd class="mono">${round.data.signer ?? "nobody"}</dd></dl>`}</div><//>
  </div>`}<//>`;
}

/** Rounds of one session in a row are one box; a box is a link to the newest model in it. */
function Lineage({ model, above, below }) {
  const { project } = useApp();
  const boxes = useMemo(() => {
    const chain = [...above].reverse().concat(model);
    const made = [];
    for (const one of chain) {
      const last = made.at(-1);
      if (one !== model && last && one.session && last.session === one.session) Object.assign(last, { to: one.round, id: one.id, n: last.n + 1 });
      else made.push({ session: one.session, from: one.round, to: one.round, id: one.id, n: 1, here: one === model, name: one.name });
    }
    return made;
  }, [model, above]);
  const after = useMemo(() => {
    const found = new Map();
    for (const one of below) found.set(one.session, { session: one.session, n: (found.get(one.session)?.n ?? 0) + 1, id: one.id, to: one.round });
    return [...found.values()].slice(0, 6);
  }, [below]);
  const [width, height, gap] = [168, 52, 44];
  const rows = Math.max(1, after.length);
  const tall = rows * (height + 14) + 16;
  const middle = (tall - height) / 2;
  const wide = boxes.length * (width + gap) + (after.length ? width : 0) + 16;
  const box = (x, y, one, words) => html`<a href=${to("p", project, "models", one.id)} aria-current=${one.here ? "true" : undefined}>
    <rect class="box ${one.here ? "chosen" : ""}" x=${x} y=${y} width=${width} height=${height} rx="9" /><text x=${x + width / 2} y=${y + 22} text-anchor="middle">${words[0]}</text><text class="small" x=${x + width / 2} y=${y + 39} text-anchor="middle">${words[1]}</text></a>`;
  const said = (one) => (!one.session ? ["seed", one.name || one.id.slice(0, 10)] : one.here || one.n === 1 ? [one.here ? "this model" : `round ${one.to}`, `round ${one.to} of ${one.session.slice(0, 8)}`] : [`rounds ${one.from}–${one.to}`, `session ${one.session.slice(0, 8)}`]);
  return html`<div class="scroll body" tabindex="0" role="region" aria-label="Lineage graph"><svg class="graph" viewBox="0 0 ${wide} ${tall}" style=${{ width: `${wide}px`, maxWidth: "none" }} role="group" aria-label="From the seed to this model">
    ${boxes.map((one, k) => {
      const x = 8 + k * (width + gap);
      return html`<g key=${one.id}>${k > 0 && html`<path class="edge" d="M${x - gap} ${middle + height / 2}H${x}" marker-end="none" />`}${box(x, middle, one, said(one))}</g>`;
    })}
    ${after.map((one, k) => {
      const x = 8 + boxes.length * (width + gap);
      const y = 8 + k * (height + 14);
      return html`<g key=${one.session}><path class="edge" d="M${x - gap} ${middle + height / 2}C${x - gap / 2} ${middle + height / 2} ${x - gap / 2} ${y + height / 2} ${x} ${y + height / 2}" />${box(x, y, one, [`${plural(one.n, "round")} more`, `session ${one.session.slice(0, 8)}`])}</g>`;
    })}
  </svg></div>`;
}

/** Whose updates are in a model: of its own session up to its round, and of those that it goes on from. */
function Contributors({ model, above }) {
  const { project } = useApp();
  const [state, set] = useState({ rows: null, error: null, cut: false });
  const load = async () => {
    try {
      const until = new Map();
      for (const one of [model, ...above]) if (one.session) until.set(one.session, Math.max(until.get(one.session) ?? 0, one.round));
      const found = new Map();
      let read = 0;
      let cut = false;
      for (const [session, round] of until) {
        for (let offset = 0; ; offset += 1000) {
          const page = await call(path`/projects/${project}/contributions` + query({ session, outcome: "accepted", sort: "round", limit: 1000, offset }));
          for (const row of page.items.filter((one) => one.round <= round)) {
            const sum = found.get(row.client) ?? { client: row.client, updates: 0, examples: 0, last: 0 };
            found.set(row.client, { ...sum, updates: sum.updates + 1, examples: sum.examples + row.num_examples, last: Math.max(sum.last, row.round) });
          }
          read += page.items.length;
          cut ||= read >= MOST && read < page.total;
          if (page.items.length < 1000 || page.items.at(-1).round > round || read >= MOST) break;
        }
      }
      set({ rows: [...found.values()], error: null, cut });
    } catch (error) {
      set({ rows: null, error, cut: false });
    }
  };
  useEffect(() => { if (above) load(); }, [model.id, above]);
  const total = (state.rows ?? []).reduce((sum, row) => sum + row.examples, 0);
  return html`<${Card} title="Who contributed" note=${state.rows ? `${plural(state.rows.length, "client")}${state.cut ? `, of the first ${count(MOST)} updates` : ""}` : ""}
    right=${state.rows && html`<${SaveList} name=${`contributors-${model.id.slice(0, 12)}`} fetch=${async () => state.rows} columns=${["client", "updates", "examples", "last"].map((name) => [name, (row) => row[name]])} />`}>
    ${state.error ? html`<${Failure} error=${state.error} retry=${load} />`
      : !state.rows ? html`<div class="body"><${Bar} width=${260} /></div>`
      : html`<${Rows} saved label="Who contributed" rows=${state.rows} identify=${(row) => row.client} sort="-examples" size=${25} columns=${[
          { id: "client", label: "Client", sort: "client", show: (row) => html`<a class="name" href=${to("p", project, "clients", row.client)}>${row.client}</a>` },
          { id: "updates", label: "Updates", n: true, sort: "updates", show: (row) => count(row.updates) },
          { id: "examples", label: "Examples, over rounds", n: true, sort: "examples", show: (row) => count(row.examples) },
          { id: "share", label: "Share", n: true, show: (row) => (total ? `${((100 * row.examples) / total).toFixed(1)} %` : "—") },
          { id: "last", label: "Last in round", n: true, sort: "last", show: (row) => count(row.last) },
        ]} empty=${html`<${Empty} icon="users" title="Nobody's update is in it">It was uploaded as it is.<//>`} />`}
  <//>`;
}
