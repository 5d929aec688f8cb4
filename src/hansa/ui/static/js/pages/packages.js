// Packages: user code that sessions ship to clients; what each holds, who stands behind it, and how it is approved.
import { address, call, path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { bytes, count, short } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { Act, Command, Dialog, toast } from "../parts/acts.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Notice, Title } from "../parts/page.js";
import { Bar, Empty, Loaded } from "../parts/states.js";
import { Ago, Pill } from "../parts/status.js";
import { List, Rows } from "../parts/table.js";
import { go, to } from "../router.js";

const PULSE = 5000; // milliseconds after which it is asked again who waits
const ASKED = 20; // sessions that run, of which it is asked

export function Packages() {
  const { project, can } = useApp();
  const base = path`/projects/${project}`;
  return html`<div class="stack"><${Title} title="Packages">User code that sessions ship to clients; each data owner decides at their own site which of it may run<//>
    <${Waiting} />
    <${Card} title="Packages"><${List} path=${`${base}/packages`} sort="-created_at" label="Packages" columns=${[
      { id: "name", label: "Name", sort: "name", show: (one) => html`<a class="name" href=${to("p", project, "packages", one.id)}>${one.name}</a>` },
      { id: "id", label: "Id", show: (one) => html`<span class="mono" title=${one.id}>${one.id.slice(0, 16)}…</span>` },
      { id: "size", label: "Size", n: true, sort: "size", show: (one) => bytes(one.size) },
      { id: "created_at", label: "Uploaded", n: true, sort: "created_at", show: (one) => html`<${Ago} at=${one.created_at} />` },
      { id: "use", label: "", name: "Use", show: (one) => can("run") && html`<a class="button small" href=${`${to("p", project, "sessions", "new")}?package=${one.id}`}>Start a session</a>` },
    ]} empty=${html`<${Empty} icon="package" title="No package yet" actions=${can("run") && html`<a class="button primary" href=${to("p", project, "sessions", "new")}>Upload an app</a>`}>An app becomes a package when a session is started with it.<//>`} /><//></div>`;
}

/** Clients at which a person must approve a session before its code runs. */
function Waiting() {
  const { project } = useApp();
  const base = path`/projects/${project}`;
  const running = useResource(`${base}/sessions?state=running&limit=${ASKED}&sort=-created_at`, { on: ({ event }) => event && /^session\./.test(event.kind), every: PULSE });
  const [rows, show] = useState([]);
  useEffect(() => {
    let gone = false;
    const sessions = (running.data?.items ?? []).filter((one) => one.engine === null);
    Promise.all(sessions.map(async (session) => {
      const why = await call(`${base}${path`/sessions/${session.id}/why`}`);
      return (why.phase?.outstanding ?? []).filter((one) => one.activity === "approval").map((one) => ({ id: `${session.id}/${one.name}`, client: one.name, session }));
    })).then((found) => !gone && show(found.flat()), () => {});
    return () => { gone = true; };
  }, [running.data]);
  if (!rows.length) return null;
  return html`<${Card} title="Waiting for an approval" note="a person at each site says yes or no, there and nowhere else">
    <${Rows} label="Clients that wait for an approval" rows=${rows} sort="client" columns=${[
      { id: "client", label: "Client", sort: "client", show: (one) => html`<a class="name" href=${to("p", project, "clients", one.client)}>${one.client}</a>` },
      { id: "session", label: "Session", show: (one) => html`<a class="linked" href=${to("p", project, "sessions", one.session.id)}>${one.session.name}</a>` },
      { id: "package", label: "Package", show: (one) => (one.session.package ? html`<a class="mono" href=${to("p", project, "packages", one.session.package)}>${one.session.package.slice(0, 10)}</a>` : "the owner's own app") },
      { id: "command", label: "On the client's machine", show: (one) => html`<${Command} text=${`hansa client approve ${one.session.id} --work FOLDER`} label=${`Copy the command for ${one.client}`} />` },
    ]} /><//>`;
}

export function PackagePage({ route }) {
  const { project, can } = useApp();
  const id = route.parts[3];
  const base = `${path`/projects/${project}`}${path`/packages/${id}`}`;
  const record = useResource(base);
  const held = useResource(`${base}/contents`);
  return html`<${Loaded} resource=${record} level=${1} skeleton=${html`<${Title} title=${id.slice(0, 12)} /><${Bar} width=${300} />`}>${(one) => html`<div class="stack">
    <${Title} title=${one.name} state=${held.data && html`<${Pill} state=${held.data.signer ? "accepted" : "missing"}>${held.data.signer ? "signed" : "not signed"}<//>`} actions=${html`
        ${can("verify") && html`<a class="button" href=${address(`${base}/file`)} download=${`${one.name}.hansa`}><${Icon} name="download" />Download</a>`}
        ${can("run") && html`<a class="button primary" href=${`${to("p", project, "sessions", "new")}?package=${one.id}`}><${Icon} name="player-play" />Start a session</a>`}
        ${can("delete") && html`<${Act} className="danger quiet" icon="trash" done="The package is deleted"
          confirm=${{ title: `Delete ${one.name}?`, text: "It goes if no session or prediction names it. This cannot be undone; whoever has its file can upload it again.", act: "Delete", word: one.name }}
          act=${async () => { await call(base, { method: "DELETE" }); go(to("p", project, "packages"), { replace: true }); }}>Delete<//>`}`}>
      Uploaded <${Ago} at=${one.created_at} />; reading it here runs nothing of it
    <//>
    <${Loaded} resource=${held} skeleton=${html`<div class="card body"><${Bar} width=${320} /></div>`}>${(inside) => html`<${Inside} record=${one} inside=${inside} base=${base} />`}<//>
  </div>`}<//>`;
}

function Inside({ record, inside, base }) {
  const { can } = useApp();
  const files = Object.entries(inside.files).map(([name, file]) => ({ name, ...file }));
  const [shown, show] = useState(null);
  return html`<div class="stack">
    <${Figures} items=${[
      { label: "Files", value: count(files.length), sub: `${bytes(files.reduce((sum, file) => sum + file.size, 0))} unpacked` },
      { label: "Package", value: bytes(record.size), sub: `id ${record.id.slice(0, 10)}` },
      { label: "Signed by", value: inside.signer ? short(inside.signer) : "nobody", sub: inside.signer ? "the signature holds" : "sites that ask for a signer refuse it" },
      { label: "Installs", value: count(inside.requirements.length), sub: inside.requirements.length ? "from the site's own index" : "nothing" },
    ]} />
    <${Approve} record=${record} inside=${inside} base=${base} />
    <${Card} title="What a client would run"><ul class="plain body">${inside.runs.map((line) => html`<li key=${line}><code>${line}</code></li>`)}${inside.requirements.map((line) => html`<li key=${line}>installs <code>${line}</code></li>`)}</ul><//>
    <${Card} title="Files" note="as the manifest lists them, each checked"><${Rows} label="Files of the package" rows=${files} identify=${(file) => file.name} sort="name" columns=${[
      { id: "name", label: "Path", sort: "name", show: (file) => (can("verify") ? html`<button class="button quiet small" onClick=${() => show(file.name)}>${file.name}</button>` : html`<span class="name">${file.name}</span>`) },
      { id: "size", label: "Size", n: true, sort: "size", show: (file) => bytes(file.size) },
      { id: "executable", label: "Right to run", sort: "executable", show: (file) => (file.executable ? "yes" : "no") },
      { id: "blake3", label: "BLAKE3", show: (file) => html`<span class="mono" title=${file.blake3}>${file.blake3.slice(0, 16)}…</span>` },
    ]} /><//>
    ${shown && html`<${Text} base=${base} name=${shown} onClose=${() => show(null)} />`}
  </div>`;
}

/** Whoever reviews code allows it at their site, or signs it, so that sites which trust them let it in. */
function Approve({ record, inside, base }) {
  const { project, can } = useApp();
  const [error, setError] = useState(null);
  const upload = async (event) => {
    const file = event.target.files[0];
    if (!file) return;
    setError(null);
    try {
      const made = await call(path`/projects/${project}/packages`, { method: "POST", body: file });
      toast(`${made.name} is here as ${made.id.slice(0, 10)}`);
      go(to("p", project, "packages", made.id));
    } catch (failure) {
      setError(failure);
    }
  };
  return html`<${Card} title="Approve it" note="no server can approve code for a site"><div class="body grid-2">
    <div class="stack"><h3>As a data owner</h3>
      <p class="second">Put this into the policy of your site (<code>--site site.toml</code>), once you have read the files below. The digest is of the files, whoever has packed or signed them.</p>
      <${Command} text=${`[code]\ndigests = [\n"${inside.digest}"\n]${inside.signer ? `\n# or everything that this key has signed:\n# signers = ["${inside.signer}"]` : ""}`} label="Copy the policy" /></div>
    ${can("verify") && html`<div class="stack"><h3>As a trusted third party</h3>
      <p class="second">Sites that name your key in <code>signers</code> run what you have signed. ${can("upload") ? html`<a class="linked" href=${address(`${base}/file`)} download=${`${record.name}.hansa`}>Download the package</a>, sign it on your own machine, and bring it back: it gets another id, and keeps its digest.` : "Download it, sign it on your own machine, and give it to who may upload packages."}</p>
      <${Command} text=${`hansa package inspect ${record.name}.hansa\nhansa package sign ${record.name}.hansa`} label="Copy the commands" />
      ${can("upload") && html`<label class="field"><span>The signed package</span><input type="file" accept=".hansa" onChange=${upload} /></label>`}
      ${error && html`<div role="alert"><${Notice} kind="bad">${error.message}<//></div>`}</div>`}
  </div><//>`;
}

/** A file, as text to read. */
function Text({ base, name, onClose }) {
  const [text, set] = useState(null);
  useEffect(() => {
    const where = address(`${base}/files/${name.split("/").map(encodeURIComponent).join("/")}`);
    fetch(where).then(async (response) => set(response.ok ? await response.text() : `It cannot be shown: HTTP ${response.status}`), () => set("It could not be read: the server cannot be reached."));
  }, [name]);
  return html`<${Dialog} title=${name} onClose=${onClose} footer=${html`<button class="button primary" onClick=${onClose}>Close</button>`}>
    ${text === null ? html`<${Bar} width=${240} />` : html`<pre class="scroll code" tabindex="0">${text}</pre>`}
  <//>`;
}
