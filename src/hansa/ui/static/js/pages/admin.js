// The installation: accounts, the server, its audit record.
import { call, path } from "../api.js";
import { useApp } from "../context.js";
import { useNow, useResource } from "../data.js";
import { ago, bytes, count, moment, plural, rate, span } from "../format.js";
import { html } from "../html.js";
import { Act, toast } from "../parts/acts.js";
import { Card, Figures, Notice, Title } from "../parts/page.js";
import { Bar, Empty, Loaded } from "../parts/states.js";
import { Ago, Status } from "../parts/status.js";
import { Rows } from "../parts/table.js";
import { useConnection } from "../stream.js";
import { to } from "../router.js";
import { AuditTable, Form } from "./projects.js";

export function Users() {
  const { me } = useApp();
  const users = useResource("/users?limit=1000", { every: 60000 });
  const create = async ({ name, password, admin }, form) => {
    await call("/users", { method: "POST", body: { name, password: password || null, admin: admin === "on" } });
    form.reset();
    users.reload();
    toast(`${name} may sign in now`);
  };
  const post = (name, what) => async () => { await call(path`/users/${name}/${what}`, { method: "POST" }); users.reload(); };
  return html`<div class="stack"><${Title} title="Users">Who may sign in to this installation<//>
    <${Card} title="Let somebody in"><div class="body"><${Form} two send=${create} button="Create the account">
      <label class="field"><span>Name</span><input name="name" required autocomplete="off" autocapitalize="none" spellcheck="false" /></label>
      <label class="field"><span>Password</span><input name="password" type="password" minlength="10" autocomplete="new-password" /><small>Ten characters or more; they change it under Account</small></label>
      <label class="check"><input name="admin" type="checkbox" />Site administrator</label>
    <//></div><//>
    <${Card} title="Accounts" note=${users.data ? plural(users.data.total, "account") : ""}><${Loaded} resource=${users} skeleton=${html`<div class="body"><${Bar} width=${240} /></div>`}>${(data) => html`<${Rows} label="Accounts" rows=${data.items} identify=${(one) => one.name} sort="name" columns=${[
      { id: "name", label: "Name", sort: "name", show: (one) => html`<span class="name">${one.name}</span>${one.name === me.name ? " (you)" : ""}` },
      { id: "admin", label: "Kind", sort: "admin", show: (one) => (one.admin ? "site administrator" : "user") },
      { id: "state", label: "Status", sort: "disabled", show: (one) => html`<${Status} state=${one.disabled ? "disabled" : "active"} />` },
      { id: "way", label: "Signs in by", show: (one) => [one.password && "password", one.subject && "OpenID"].filter(Boolean).join(", ") || "links and tokens" },
      { id: "at", label: "Created", n: true, sort: "created_at", show: (one) => html`<${Ago} at=${one.created_at} />` },
      { id: "act", label: "", name: "Disable", show: (one) => (one.disabled
        ? html`<${Act} className="small" act=${post(one.name, "enable")} done=${`${one.name} may sign in again`}>Enable<//>`
        : html`<${Act} className="small quiet danger" act=${post(one.name, "disable")} done=${`${one.name} is disabled`} undo=${{ label: "Undo", act: post(one.name, "enable") }}
            confirm=${{ title: `Disable ${one.name}?`, text: "They and every token of theirs are refused at once. They can be enabled again, without the former tokens.", act: "Disable" }}>Disable<//>`) },
    ]} />`}<//><//></div>`;
}

export function System() {
  const { me, project } = useApp();
  const server = useResource("/server", { every: 5000 });
  const system = useResource("/system", { every: 5000 });
  const projects = useResource("/projects", { every: 30000 });
  const connection = useConnection();
  const now = useNow();
  return html`<${Loaded} resource=${server} level=${1} skeleton=${html`<${Title} title="System" /><${Bar} width=${300} />`}>${(one) => html`<div class="stack">
    <${Title} title="System">hansa ${one.version}, up since ${moment(one.started_at)}<//>
    <${Loaded} resource=${system} skeleton=${html`<${Figures} items=${["Replicas", "Throughput", "Storage", "Event lag"].map((label) => ({ label, value: html`<${Bar} width=${60} />`, sub: html`<${Bar} width=${90} />` }))} />`}>${(state) => html`<${State} state=${state} server=${one} />`}<//>
    <${Card} title="This page" note="what your browser sees of the server"><dl class="defs body">
      <dt>Event stream</dt><dd>${connection.state === "live" ? "live" : connection.state}, last heard ${ago(connection.heard / 1000, now)}</dd>
      <dt>Data shown</dt><dd>read ${ago((server.at ?? 0) / 1000, now)}, and again every 5 s</dd>
      <dt>Uptime</dt><dd>${span(one.uptime + Math.max(0, now - (server.at ?? 0) / 1000))}</dd>
      <dt>REST API and Studio</dt><dd class="mono">${location.origin}</dd><dt>Nodes join at</dt><dd class="mono">${one.grpc_address}</dd><dt>Signed in as</dt><dd>${me.name}</dd></dl><//>
    <${Card} title="Projects"><${Loaded} resource=${projects} skeleton=${html`<div class="body"><${Bar} width=${240} /></div>`}>${(data) => html`<${Rows} label="Projects" rows=${data.items} sort="id" columns=${[
      { id: "id", label: "Project", sort: "id", show: (row) => html`<a class="name" href=${to("p", row.id)}>${row.id}</a>${row.id === project ? " (shown)" : ""}` },
      { id: "use", label: "Use", show: (row) => html`<${Use} project=${row.id} />` },
      { id: "at", label: "Created", n: true, sort: "created_at", show: (row) => html`<${Ago} at=${row.created_at} />` },
    ]} empty=${html`<${Empty} title="No project yet" />`} />`}<//><//>
  </div>`}<//>`;
}

const PER_MINUTE = 60;
const SOON = 14 * 86400;

function State({ state, server }) {
  const waiting = state.replicas.length - 1;
  const perMinute = (n) => rate((PER_MINUTE * n) / state.window);
  const perSecond = (n) => `${bytes(n / Math.min(state.window, server.uptime))}/s`;
  const failed = state.failing.filter((one) => one.failures > 0).length;
  return html`<div class="stack">
    <${Figures} items=${[
      { label: "Replicas", value: count(state.replicas.length), sub: waiting ? `one leads, ${count(waiting)} would take over` : "it leads, and none stands by" },
      { label: "Nodes connected", value: count(server.clients), unit: "clients", sub: plural(server.combiners, "combiner") },
      { label: "Throughput", value: perMinute(state.updates), unit: "updates / min", sub: `${perMinute(state.rounds)} ${rate((PER_MINUTE * state.rounds) / state.window) === "1" ? "round" : "rounds"} / min` },
      { label: "Traffic", value: perSecond(state.received), unit: "up", sub: `${perSecond(state.sent)} down, right below` },
      { label: "Storage", value: bytes(state.stored), sub: `${bytes(state.disk_free)} of ${bytes(state.disk_size)} free on its disk` },
      { label: "Event lag", value: state.lag === null ? "—" : span(state.lag), sub: `at most, lately; ${plural(state.streams, "stream")} open` },
      { label: "Failing nodes", value: count(failed), sub: `in the last hour; ${count(state.failing.length - failed)} away` },
    ]} />
    ${state.disk_free < 0.05 * state.disk_size && html`<${Notice} kind="warn">The disk of the data folder is nearly full: sessions wait when it is. Prune projects in their settings, or give it room.<//>`}
    ${state.certificate_ends !== null && state.certificate_ends - Date.now() / 1000 < SOON && html`<${Notice} kind="warn">The server's certificate expires <${Ago} at=${state.certificate_ends} />: whoever connects after that is refused. Renew the files of HANSA_TLS_CERT and HANSA_TLS_KEY; it needs no restart.<//>`}
    <div class="grid-2">
      <${Card} title="Replicas" note="servers over this database"><${Rows} label="Replicas" rows=${state.replicas} identify=${(one) => one.name} columns=${[
        { id: "name", label: "Process", show: (one) => html`<span class="name">${one.name}</span>` },
        { id: "leads", label: "Status", show: (one) => html`<${Status} state=${one.leads ? "running" : "waiting"}>${one.leads ? "leads" : "stands by"}<//>` },
      ]} /><//>
      <${Card} title="Failing nodes" note="with their newest cause"><${Rows} label="Failing nodes" rows=${state.failing} identify=${(one) => `${one.project}/${one.node}`} size=${10} sort="-last_at" columns=${[
        { id: "node", label: "Node", sort: "node", show: (one) => html`<a class="name" href=${one.role === "client" ? to("p", one.project, "clients", one.node) : to("p", one.project, "network")}>${one.node}</a> <span class="muted">${one.project}</span>` },
        { id: "connected", label: "Status", sort: "connected", show: (one) => html`<${Status} state=${one.failures ? "failed" : "offline"}>${one.failures ? (one.connected ? "fails" : "failed, away") : "away"}<//>` },
        { id: "failures", label: "Failures", n: true, sort: "failures", show: (one) => count(one.failures) },
        { id: "cause", label: "Cause", clip: true, show: (one) => html`<span title=${one.cause}>${one.cause.split("\n")[0]}</span>` },
        { id: "last_at", label: "Last", n: true, sort: "last_at", show: (one) => html`<${Ago} at=${one.last_at} />` },
      ]} empty=${html`<${Empty} icon="check" title="No node fails">None has failed in the last hour, and none went away in the last day.<//>`} /><//>
    </div>
  </div>`;
}

function Use({ project }) {
  const quota = useResource(path`/projects/${project}/quota`, { every: 30000 });
  if (!quota.data) return html`<${Bar} width=${120} />`;
  const { sessions, storage, clients } = quota.data;
  return `${plural(sessions.used, "session")} running · ${bytes(storage.used)} · ${plural(clients.used, "client")}`;
}

export const InstallationAudit = () => html`<div class="stack"><${Title} title="Installation audit">Logins, accounts, and requests for projects that the caller does not know; the oldest first<//><${AuditTable} base="/audit" name="audit-installation" /></div>`;
