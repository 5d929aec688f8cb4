// A project's own pages: making one, its settings and quotas, packages, members, tokens, audit.
import { call, path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { brief, bytes, count, iso, moment, plural } from "../format.js";
import { html, useState } from "../html.js";
import { Act, Command, Dialog, toast } from "../parts/acts.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Notice, Title } from "../parts/page.js";
import { Bar, Empty, Loaded } from "../parts/states.js";
import { Ago, Status } from "../parts/status.js";
import { Choose, List, Rows, SaveList, everything } from "../parts/table.js";
import { go, to } from "../router.js";

const DAY = 86400;
const NAME = "[A-Za-z0-9._\\-]{1,100}";

/** A form that sends what it holds, and shows in place what was wrong with it. */
export function Form({ send, button, children, two }) {
  const [error, setError] = useState(null);
  const [busy, work] = useState(false);
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    setError(null);
    work(true);
    try {
      await send(Object.fromEntries(new FormData(form)), form);
    } catch (failure) {
      setError(failure);
    } finally {
      work(false);
    }
  };
  return html`<form class="form ${two ? "two" : ""}" onSubmit=${submit}>${children}
    ${error && html`<div role="alert"><${Notice} kind="bad">${error.message}<//></div>`}
    <div class="actions"><button class="button primary" disabled=${busy}>${button}</button></div>
  </form>`;
}

export function NewProject() {
  const { me, reload } = useApp();
  if (!me.admin) return html`<${Empty} level=${1} icon="users" title="You are a member of no project yet">Ask an owner of a project to add you, or a site administrator to make one. Your name is ${me.name}.<//>`;
  const send = async ({ name }) => {
    await call("/projects", { method: "POST", body: { name } });
    await reload();
    go(to("p", name));
  };
  return html`<div class="stack"><${Title} title="New project">A project has its own clients, sessions, models and members<//>
    <section class="card"><div class="body" style=${{ paddingTop: "18px" }}><${Form} send=${send} button="Create the project">
      <label class="field"><span>Name</span><input name="name" pattern=${NAME} required autofocus autocomplete="off" placeholder="cardiology" /><small>Letters, digits and . _ - ; it stands in addresses and cannot be changed later</small></label>
    <//></div></section></div>`;
}

export function Settings() {
  const { project, me } = useApp();
  const base = path`/projects/${project}`;
  const quota = useResource(`${base}/quota`, { every: 30000 });
  const [done, told] = useState(null);
  const use = (one) => (one.most ? one.used / one.most : 0);
  const save = async (given) => {
    const whole = (text, scale = 1) => (text === "" ? null : Math.round(Number(text) * scale));
    await call(`${base}/quota`, { method: "PUT", body: { sessions: whole(given.sessions), storage: whole(given.storage, 1e9), clients: whole(given.clients) } });
    quota.reload();
    toast("The quotas are set");
  };
  const prune = async (dry) => told(await call(`${base}/prune`, { method: "POST", body: { dry_run: dry } }));
  return html`<${Loaded} resource=${quota} level=${1} skeleton=${html`<${Title} title="Settings" /><${Bar} width=${300} />`}>${(q) => html`<div class="stack">
    <${Title} title="Settings">of the project ${project}<//>
    <${Figures} items=${[
      { label: "Running sessions", value: count(q.sessions.used), unit: q.sessions.most !== null ? `/ ${count(q.sessions.most)}` : "", ...(q.sessions.most !== null ? { progress: use(q.sessions) } : { sub: "no quota" }) },
      { label: "Storage", value: bytes(q.storage.used), unit: q.storage.most !== null ? `/ ${bytes(q.storage.most)}` : "", ...(q.storage.most !== null ? { progress: use(q.storage) } : { sub: "no quota" }) },
      { label: "Clients", value: count(q.clients.used), unit: q.clients.most !== null ? `/ ${count(q.clients.most)}` : "", ...(q.clients.most !== null ? { progress: use(q.clients) } : { sub: "no quota" }) },
    ]} />
    ${me.admin && html`<${Card} title="Quotas" note="empty: the server's default"><div class="body"><${Form} two send=${save} button="Set the quotas">
      <label class="field"><span>Sessions at once</span><input name="sessions" type="number" min="0" step="1" defaultValue=${q.sessions.own ? q.sessions.most : ""} /></label>
      <label class="field"><span>Storage, GB</span><input name="storage" type="number" min="0" step="any" defaultValue=${q.storage.own ? q.storage.most / 1e9 : ""} /></label>
      <label class="field"><span>Clients</span><input name="clients" type="number" min="0" step="1" defaultValue=${q.clients.own ? q.clients.most : ""} /></label>
    <//></div><//>`}
    <${Card} title="Storage"><div class="body"><p class="second">Pruning removes what the policies of the sessions give up, and every object that nothing names any more.</p>
      <div class="actions" style=${{ marginTop: "12px" }}><${Act} act=${() => prune(true)} icon="search">See what would go<//>
        <${Act} className="danger" act=${() => prune(false)} icon="trash" done="Pruned" confirm=${{ title: "Prune the project?", text: "Models that the sessions' policies give up lose their bytes. This cannot be undone.", act: "Prune" }}>Prune<//></div>
      ${done && html`<${Notice} live>${plural(done.objects, "object")} of ${bytes(done.bytes)} ${done.dry_run ? "would be" : "were"} removed, of ${plural(done.sessions.length, "session")}.<//>`}
    </div><//>
  </div>`}<//>`;
}

const ROLES = ["owner", "maintainer", "data-scientist", "viewer", "auditor"];

export function Members() {
  const { project, can, me, reload } = useApp();
  const base = path`/projects/${project}/members`;
  const members = useResource(`${base}?limit=1000&sort=id`, { every: 60000 });
  const put = (name, role) => call(`${base}${path`/${name}`}`, { method: "PUT", body: { role } });
  const refresh = () => { members.reload(); if (can("manage_members")) reload(); };
  const change = (one) => html`<select class="input inline" aria-label=${`Role of ${one.id}`} value=${one.role} disabled=${!can("manage_members")}
    onChange=${async (event) => {
      const before = one.role;
      try {
        await put(one.id, event.target.value);
        toast(`${one.id} is ${event.target.value} now`, { label: "Undo", act: async () => { await put(one.id, before); refresh(); } });
      } catch (failure) { toast(failure.message); }
      refresh();
    }}>${ROLES.map((role) => html`<option key=${role}>${role}</option>`)}</select>`;
  return html`<div class="stack"><${Title} title="Members">Who may do what in ${project}<//>
    ${can("manage_members") && html`<${Card} title="Add a member"><div class="body"><${Form} two button="Add" send=${async ({ name, role }, form) => { await put(name, role); form.reset(); refresh(); toast(`${name} is ${role} now`); }}>
      <label class="field"><span>User</span><input name="name" required autocomplete="off" autocapitalize="none" spellcheck="false" /><small>The account's name; site administrators make accounts</small></label>
      <label class="field"><span>Role</span><select name="role">${ROLES.map((role) => html`<option key=${role}>${role}</option>`)}</select></label>
    <//></div><//>`}
    <${Card} title="All members" note=${members.data ? plural(members.data.total, "member") : ""}><${Loaded} resource=${members} skeleton=${html`<div class="body"><${Bar} width=${240} /></div>`}>${(data) => html`<${Rows} label="Members" rows=${data.items} sort="id" columns=${[
      { id: "id", label: "User", sort: "id", show: (one) => html`<span class="name">${one.id}</span>${one.id === me.name ? " (you)" : ""}` },
      { id: "role", label: "Role", sort: "role", show: (one) => (can("manage_members") ? change(one) : one.role) },
      { id: "at", label: "Since", n: true, sort: "created_at", show: (one) => html`<${Ago} at=${one.created_at} />` },
      { id: "remove", label: "", name: "Remove", show: (one) => can("manage_members") && html`<${Act} className="small quiet danger" icon="x" done=${`${one.id} is no member any more`} undo=${{ label: "Undo", act: async () => { await put(one.id, one.role); refresh(); } }}
        confirm=${{ title: `Remove ${one.id}?`, text: "At once they know the project no more, and their API tokens for it hold no more.", act: "Remove" }} act=${async () => { await call(`${base}${path`/${one.id}`}`, { method: "DELETE" }); refresh(); }}>Remove<//>` },
    ]} empty=${html`<${Empty} icon="users" title="Nobody is a member yet">Site administrators may do everything here without being one.<//>`} />`}<//><//></div>`;
}

const stateOf = (one, now) => (one.revoked ? "revoked" : one.used_at ? "used" : one.expires_at && one.expires_at < now ? "expired" : "active");

export function Tokens() {
  const { project, can } = useApp();
  const base = path`/projects/${project}`;
  const own = useResource(`${base}/api-tokens?limit=1000`);
  const all = useResource(can("read_tokens") ? `${base}/tokens?limit=1000&sort=-created_at` : null);
  const [made, show] = useState(null);
  const now = Date.now() / 1000;
  const refresh = () => { own.reload(); all.reload(); };
  const columns = (where) => [
    { id: "name", label: "Name", sort: "name", show: (one) => html`<span class="name">${one.name}</span>` },
    { id: "role", label: "Role", sort: "role", show: (one) => one.role },
    { id: "account", label: "Acts for", sort: "account", show: (one) => one.account ?? "a node" },
    { id: "state", label: "Status", show: (one) => html`<${Status} state=${stateOf(one, now)} />` },
    { id: "created", label: "Made", n: true, sort: "created_at", show: (one) => html`<${Ago} at=${one.created_at} />` },
    { id: "expires", label: "Expires", n: true, sort: "expires_at", show: (one) => (one.expires_at ? html`<${Ago} at=${one.expires_at} />` : "never") },
    { id: "revoke", label: "", name: "Revoke", show: (one) => stateOf(one, now) === "active" && (where === "api-tokens" || can("admit_nodes")) && html`<${Act} className="small quiet danger" icon="x" done="The token is revoked"
      confirm=${{ title: `Revoke ${one.name}?`, text: "Whatever uses it is refused from now on. This cannot be undone; a new token can be made.", act: "Revoke" }} act=${async () => { await call(`${base}/${where}${path`/${one.id}`}`, { method: "DELETE" }); refresh(); }}>Revoke<//>` },
  ];
  return html`<div class="stack"><${Title} title="Tokens" actions=${can("admit_nodes") && html`<a class="button" href=${to("p", project, "clients", "join")}><${Icon} name="plus" />Join a node</a>`}>A token is shown once, when it is made<//>
    <${Card} title="Make an API token" note="it acts for you in this project, as far as its role goes"><div class="body"><${Form} two button="Make the token" send=${async ({ name, role, days }, form) => { show(await call(`${base}/api-tokens`, { method: "POST", body: { name, role, expires_in: Number(days) * DAY } })); form.reset(); refresh(); }}>
      <label class="field"><span>Name</span><input name="name" pattern=${NAME} required autocomplete="off" placeholder="nightly" /></label>
      <label class="field"><span>Role at most</span><select name="role">${["viewer", "data-scientist", "auditor", "maintainer", "owner"].map((role) => html`<option key=${role}>${role}</option>`)}</select></label>
      <label class="field"><span>Days until it expires</span><input name="days" type="number" min="1" max="366" defaultValue="30" required /></label>
    <//></div><//>
    <${Card} title="Your API tokens"><${Loaded} resource=${own} skeleton=${html`<div class="body"><${Bar} width=${240} /></div>`}>${(data) => html`<${Rows} label="Your API tokens" rows=${data.items} sort="-created_at" columns=${columns("api-tokens").filter(({ id }) => id !== "account")} empty=${html`<${Empty} icon="key" title="You have made none">Programs use one instead of your password.<//>`} />`}<//><//>
    ${can("read_tokens") && html`<${Card} title="All tokens of the project"><${Loaded} resource=${all} skeleton=${html`<div class="body"><${Bar} width=${240} /></div>`}>${(data) => html`<${Rows} label="All tokens of the project" rows=${data.items} sort="-created_at" columns=${columns("tokens")} empty=${html`<${Empty} icon="key" title="There is none yet" />`} />`}<//><//>`}
    ${made && html`<${Dialog} title="Your new token" onClose=${() => show(null)} footer=${html`<button class="button primary" onClick=${() => show(null)}>I have kept it</button>`}>
      <p>It is shown this once, and is not kept anywhere. It expires ${moment(made.record.expires_at)}.</p><${Command} text=${made.token} label="Copy the token" />
    <//>`}
  </div>`;
}

/** The audit record, of a project or of the installation. */
export function AuditTable({ base, name, filters }) {
  const [outcome, choose] = useState("");
  const filter = filters ? { outcome: outcome || null } : {};
  return html`<${Card} title="Record" note="each line is chained to the one before it" right=${html`
      ${filters && html`<${Choose} label="Outcome" value=${outcome} onChange=${choose} options=${[["", "All outcomes"], ["done", "done"], ["failed", "failed"], ["refused", "refused"]]} />`}
      <${SaveList} name=${name} fetch=${() => everything(base, filter)} columns=${[["number", (r) => r.number], ["at", (r) => iso(r.at)], ["actor", (r) => r.actor], ["action", (r) => r.action], ["target", (r) => r.target], ["outcome", (r) => r.outcome], ["detail", (r) => r.detail], ["link", (r) => r.link]]} />`}>
    <${List} saved path=${base} filter=${filter} sort=${filters ? "-number" : ""} every=${10000} label="Audit record" size=${50} columns=${[
      { id: "number", label: "No.", n: true, sort: filters && "number", show: (row) => count(row.number) },
      { id: "at", label: "When", sort: filters && "at", show: (row) => html`<time dateTime=${iso(row.at)}>${moment(row.at)}</time>` },
      { id: "actor", label: "Who", sort: filters && "actor", show: (row) => html`<span class="name">${row.actor}</span>` },
      { id: "action", label: "Action", sort: filters && "action", show: (row) => row.action },
      { id: "target", label: "To what", clip: true, show: (row) => (row.target ? html`<span title=${row.target}>${brief(row.target)}</span>` : "—") },
      { id: "outcome", label: "Outcome", sort: filters && "outcome", show: (row) => html`<${Status} state=${row.outcome} />` },
      { id: "detail", label: "Detail", clip: true, show: (row) => (row.detail ? html`<span title=${row.detail}>${brief(row.detail)}</span>` : "—") },
    ]} empty=${html`<${Empty} icon="history" title="Nothing is on record yet" />`} />
  <//>`;
}

export function Audit() {
  const { project } = useApp();
  return html`<div class="stack"><${Title} title="Audit">Who did what in ${project}<//><${AuditTable} base=${path`/projects/${project}/audit`} name=${`audit-${project}`} filters /></div>`;
}

