// Clients: who holds data, who is here, and what each has done.
import { call, path, query } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { NORM, count, iso, metric, number, plural, short, title } from "../format.js";
import { html, useMemo, useState } from "../html.js";
import { Act } from "../parts/acts.js";
import { Chart } from "../parts/chart.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Title } from "../parts/page.js";
import { useTheme } from "../parts/shell.js";
import { Bar, Empty, Loaded } from "../parts/states.js";
import { Ago, Pill, Status } from "../parts/status.js";
import { Choose, List, SaveList, Search, everything } from "../parts/table.js";
import { setQuery, to } from "../router.js";

const DRAWN = 12; // metrics that are drawn
const ofNodes = ({ event }) => event && /^(client|combiner|node)\./.test(event.kind);

export function Clients({ route }) {
  const { project, can } = useApp();
  const base = path`/projects/${project}`;
  const [total, tell] = useState(null);
  const { search = "", connected = "", combiner = "" } = route.query;
  const combiners = useResource(`${base}/combiners?limit=1000`, { on: ofNodes });
  const filter = { search: search || null, connected: connected || null, combiner: combiner || null };
  const filtered = Boolean(search || connected || combiner);
  const columns = [
    { id: "name", label: "Client", sort: "name", show: (one) => html`<a class="name" href=${to("p", project, "clients", one.name)}>${one.name}</a>` },
    { id: "connected", label: "Status", sort: "connected", show: (one) => html`<${Status} state=${one.connected ? "connected" : "offline"} />` },
    { id: "combiner", label: "Server", sort: "combiner", show: (one) => (one.combiner === "root" ? "controller" : one.combiner || "—") },
    { id: "labels", label: "Labels", show: (one) => Object.entries(one.labels).map(([key, value]) => `${key}=${value}`).join(", ") || "—" },
    { id: "version", label: "Version", sort: "version", show: (one) => one.version || "—" },
    { id: "first_seen", label: "Joined", n: true, sort: "first_seen", show: (one) => html`<${Ago} at=${one.first_seen} />` },
    { id: "last_seen", label: "Last seen", n: true, sort: "last_seen", show: (one) => (one.connected ? "now" : html`<${Ago} at=${one.last_seen} />`) },
  ];
  const all = () => everything(`${base}/clients`, filter);
  const join = can("admit_nodes") && html`<a class="button primary" href=${to("p", project, "clients", "join")}><${Icon} name="plus" />Join a client</a>`;
  return html`<div class="stack">
    <${Title} title="Clients" actions=${join}>They hold the data and train where the data are<//>
    <${Card} title="All clients" note=${total === null ? "" : plural(total, "client")} right=${html`
        <${Search} label="Part of a name" value=${search} onChange=${(value) => setQuery({ search: value })} />
        <${Choose} label="Status" value=${connected} options=${[["", "Any status"], ["true", "connected"], ["false", "offline"]]} onChange=${(value) => setQuery({ connected: value })} />
        <${Choose} label="Server" value=${combiner} options=${[["", "All servers"], ["root", "controller"], ...(combiners.data?.items ?? []).map((one) => [one.name, one.name])]} onChange=${(value) => setQuery({ combiner: value })} />
        <${SaveList} name=${`clients-${project}`} fetch=${all} columns=${[["name", (c) => c.name], ["connected", (c) => c.connected], ["server", (c) => c.combiner], ["labels", (c) => JSON.stringify(c.labels)], ["version", (c) => c.version], ["first_seen", (c) => iso(c.first_seen)], ["last_seen", (c) => iso(c.last_seen)]]} />`}>
      <${List} saved path=${`${base}/clients`} filter=${filter} sort="name" columns=${columns} on=${ofNodes} label="Clients" onTotal=${tell}
        empty=${filtered
          ? html`<${Empty} icon="search" title="No client matches" actions=${html`<button class="button" onClick=${() => setQuery({ search: null, connected: null, combiner: null })}>Clear the filter</button>`} />`
          : html`<${Empty} icon="device-desktop" title="No client has joined yet" actions=${join}>One command on the machine that holds the data connects it.<//>`} />
    <//>
  </div>`;
}

export function ClientPage({ route }) {
  const { project, can } = useApp();
  const name = route.parts[3];
  const theme = useTheme();
  const base = path`/projects/${project}`;
  const client = useResource(`${base}${path`/clients/${name}`}`, { on: ofNodes });
  const node = useResource(`${base}/nodes${query({ name, limit: 1 })}`, { on: ofNodes });
  const mine = ({ event }) => event?.kind === "round.committed";
  const taken = useResource(`${base}/contributions${query({ client: name, limit: 1000, sort: "-round" })}`, { on: mine });
  const curves = useMemo(() => byMetric(taken.data?.items ?? []), [taken.data]);
  const joined = node.data?.items[0];
  const total = taken.data?.total ?? 0;
  const tasks = total > 1000 ? `of the newest 1,000 of ${count(total)} tasks` : `of ${plural(total, "task")}`;
  const outcomes = (what) => taken.data?.items.filter((one) => one.outcome === what).length;
  return html`<${Loaded} resource=${client} level=${1} skeleton=${html`<${Title} title=${name} />`}>${(one) => html`<div class="stack">
    <${Title} title=${one.name} state=${html`<${Pill} state=${joined?.revoked ? "revoked" : one.connected ? "connected" : "offline"} />`}
      actions=${can("admit_nodes") && joined && !joined.revoked && html`<${Act} className="danger" icon="trash" done="The client is revoked"
        confirm=${{ title: `Revoke ${one.name}?`, text: "Its streams end at once and it may not come back, unless it joins again with a new token.", act: "Revoke", word: one.name }}
        act=${async () => { await call(`${base}${path`/nodes/${name}`}`, { method: "DELETE" }); node.reload(); client.reload(); }}>Revoke<//>`}>
      Joined <${Ago} at=${one.first_seen} />, ${one.connected ? "connected" : "last seen"} <${Ago} at=${one.last_seen} />
    <//>
    <${Figures} items=${[
      { label: "Server", value: one.combiner === "root" ? "controller" : one.combiner || "—", sub: one.combiner ? "its stream ends there" : "it is away" },
      { label: "Accepted updates", value: taken.data ? count(outcomes("accepted")) : html`<${Bar} width=${40} />`, sub: tasks },
      { label: "Rejected", value: taken.data ? count(outcomes("rejected")) : html`<${Bar} width=${40} />`, sub: "with a reason" },
      { label: "Failed or missing", value: taken.data ? count(outcomes("failed") + outcomes("missing")) : html`<${Bar} width=${40} />`, sub: "with a cause" },
      { label: "Version", value: one.version || "—", sub: Object.entries(one.labels).map(([key, value]) => `${key}=${value}`).join(", ") || "no labels" },
    ]} />
    ${curves.length > 0 && html`<div class="grid-2">${curves.slice(0, DRAWN).map((curve) => html`<${Chart} key=${curve.id} title=${title(curve.name)} note="this client's training" name=${curve.name} series=${[curve]} file=${`${name}-${curve.name}`} theme=${theme} />`)}</div>`}
    <${Card} title="Participation" note="the newest first">
      <${List} path=${`${base}/contributions`} filter=${{ client: name }} sort="-round" on=${mine} label=${`Participation of ${name}`} columns=${[
        { id: "session", label: "Session", sort: "session", show: (row) => html`<a class="mono" href=${to("p", project, "sessions", row.session)}>${row.session.slice(0, 8)}</a>` },
        { id: "round", label: "Round", n: true, sort: "round", show: (row) => count(row.round) },
        { id: "outcome", label: "Outcome", sort: "outcome", show: (row) => html`<${Status} state=${row.outcome} />` },
        { id: "num_examples", label: "Examples", n: true, sort: "num_examples", show: (row) => count(row.num_examples) },
        { id: "metrics", label: "Metrics", show: (row) => Object.entries(row.metrics).map(([key, value]) => `${key} ${metric(key, value)}`).join(", ") || "—" },
        { id: "norm", label: "Update norm", n: true, sort: "norm", show: (row) => number(row.norm) },
        { id: "reason", label: "Reason", clip: true, show: (row) => row.reason || "—" },
      ]} empty=${html`<${Empty} icon="player-play" title="It has taken part in no round yet" />`} />
    <//>
    ${joined && html`<${Card} title="Identity"><dl class="defs body"><dt>Public key</dt><dd class="mono">${joined.key}</dd><dt>Joined with token</dt><dd class="mono">${joined.token}</dd><dt>Process</dt><dd class="mono">${short(joined.instance)}</dd></dl><//>`}
  </div>`}<//>`;
}

/** A curve for each metric of the session that it took part in last. */
function byMetric(rows) {
  if (!rows.length) return [];
  const session = rows.reduce((a, b) => (a.round >= b.round ? a : b)).session;
  const made = new Map();
  for (const row of rows.filter((one) => one.session === session && one.outcome === "accepted").sort((a, b) => a.round - b.round)) {
    const told = row.norm === null ? row.metrics : { ...row.metrics, [NORM]: row.norm };
    for (const [name, value] of Object.entries(told)) {
      const curve = made.get(name) ?? { id: name, name, label: "this client", rounds: [], values: [] };
      curve.rounds.push(row.round);
      curve.values.push(value);
      made.set(name, curve);
    }
  }
  return [...made.values()];
}
