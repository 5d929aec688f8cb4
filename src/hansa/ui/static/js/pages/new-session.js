// Starting a session: which code, on whom, with which settings.
import { call, path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { plural } from "../format.js";
import { html, useEffect, useState } from "../html.js";
import { Card, Notice, Title } from "../parts/page.js";
import { Failure, Loaded } from "../parts/states.js";
import { go, to } from "../router.js";

/** An option as it was typed: a number or a truth value where it reads as one, else text. */
function valueOf(text) {
  try {
    const value = JSON.parse(text);
    return value === null || typeof value === "object" ? text : value;
  } catch {
    return text;
  }
}

/** Options that were filled in, of fields whose names begin with the prefix. */
const optionsOf = (given, prefix) => Object.fromEntries(Object.entries(given).filter(([field, text]) => field.startsWith(prefix) && text !== "").map(([field, text]) => [field.slice(prefix.length), valueOf(text)]));

/** What is registered on the server under a kind, and fields for the options of what is chosen. */
function Registered({ label, field, choices, chosen, onChoose, options }) {
  const known = choices ?? [{ name: chosen, options: [] }];
  const one = known.find(({ name: other }) => other === chosen);
  const said = (value) => (value === null || value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value));
  return html`<label class="field"><span>${label}</span><select name=${field} value=${chosen} onChange=${(event) => onChoose(event.target.value)}>
      ${(one ? known : [{ name: chosen, options: [] }, ...known]).map((each) => html`<option key=${each.name} value=${each.name} selected=${each.name === chosen}>${each.name}</option>`)}</select></label>
    ${one?.options.map((option) => html`<label class="field" key=${`${chosen}/${option.name}`}><span>${label}: ${option.name.replaceAll("_", " ")}</span>
      ${typeof option.default === "boolean"
        ? html`<select name=${`${field}.${option.name}`} defaultValue=${said(options?.[option.name])}>${[["", `${option.default ? "yes" : "no"}, the default`], ["true", "yes"], ["false", "no"]].map(([value, text]) => html`<option key=${value} value=${value} selected=${value === said(options?.[option.name])}>${text}</option>`)}</select>`
        : html`<input name=${`${field}.${option.name}`} required=${option.required} defaultValue=${said(options?.[option.name])} placeholder=${said(option.default)} autocomplete="off" spellcheck="false" />
      <small>${option.required ? "It has no default" : `Empty: ${said(option.default) || "none"}`}</small>`}</label>`)}`;
}

const name = (file) => file.name.replace(/\.(py|hansa)$/, "").replace(/[^A-Za-z0-9._-]+/g, "-").slice(0, 100) || "app";

export function NewSession({ route }) {
  const { project } = useApp();
  const like = useResource(route.query.like ? path`/projects/${project}/sessions/${route.query.like}` : null);
  if (route.query.like) return html`<${Loaded} resource=${like} level=${1}>${(session) => html`<${Start} like=${session} chosen=${session.package} />`}<//>`;
  return html`<${Start} chosen=${route.query.package ?? null} />`;
}

function Start({ like, chosen }) {
  const { project } = useApp();
  const base = path`/projects/${project}`;
  const packages = useResource(`${base}/packages?limit=1000&sort=-created_at`);
  const here = useResource(`${base}/clients?limit=1&connected=true`, { on: ({ event }) => event && /^(client|node)\./.test(event.kind) });
  const [code, choose] = useState(chosen ? "package" : "example");
  const [file, take] = useState(null);
  const [over, drag] = useState(false);
  const [where, place] = useState(null);
  const installed = useResource("/installed");
  const [algorithm, pickAlgorithm] = useState(like?.spec.algorithm ?? "fedavg");
  const [aggregator, pickAggregator] = useState(like?.spec.aggregator ?? "mean");
  const [state, tell] = useState({ step: "", error: null });
  const connected = here.data?.total ?? 0;
  const runs = where ?? (here.data && connected === 0 ? "here" : "network");
  useEffect(() => { if (like) document.title = `Again: ${like.name} · hansa Studio`; }, []);

  const packed = async (given) => {
    if (code === "package") return given.package;
    if (code === "example") return (await call(`${base}/apps/example`, { method: "POST" })).id;
    if (!file) throw new Error("Choose a file first: the app, as one .py file or as a package that `hansa package create` has made.");
    if (file.name.endsWith(".hansa")) return (await call(`${base}/packages`, { method: "POST", body: file })).id;
    return (await call(`${base}/apps?name=${encodeURIComponent(name(file))}`, { method: "POST", body: file })).id;
  };

  const start = async (event) => {
    event.preventDefault();
    const given = Object.fromEntries(new FormData(event.target));
    try {
      tell({ step: "Packing the app …", error: null });
      const id = await packed(given);
      const least = Number(given.clients);
      const spec = {
        ...(like?.spec ?? {}), name: given.name, algorithm, algorithm_options: optionsOf(given, "algorithm."), aggregator, aggregator_options: optionsOf(given, "aggregator."), rounds: Number(given.rounds), seed: Number(given.seed),
        rules: { ...(like?.spec.rules ?? {}), min_clients: runs === "here" ? 1 : least, quorum: runs === "here" ? 1 : least, deadline: Number(given.deadline) },
      };
      delete spec.project;
      let session;
      if (runs === "here") {
        tell({ step: "Starting the simulation …", error: null });
        session = await call(`${base}/simulations`, { method: "POST", body: { package: id, spec, clients: Number(given.clients) } });
      } else {
        tell({ step: "Drawing the initial model …", error: null });
        const drawn = await call(`${base}/initial-models`, { method: "POST", body: { package: id, spec } });
        delete drawn.spec.project;
        tell({ step: "Starting the session …", error: null });
        session = await call(`${base}/sessions`, { method: "POST", body: { spec: drawn.spec, package: id, seed_model: drawn.model.id, keep: given.keep || null } });
        await call(`${base}${path`/sessions/${session.id}/start`}`, { method: "POST" });
      }
      go(to("p", project, "sessions", session.id));
    } catch (error) {
      tell({ step: "", error });
    }
  };

  const radio = (group, value, current, set, title, text, disabled) => html`<label><input type="radio" name=${group} value=${value} checked=${current === value} disabled=${disabled} onChange=${() => set(value)} /><span><b>${title}</b><small>${text}</small></span></label>`;
  const read = [here, packages, installed];
  const missing = read.find((one) => one.error && !one.data);
  const defaults = like?.spec ?? { name: "digits", rounds: 20, seed: 0, rules: { deadline: 3600, min_clients: Math.max(1, connected) } };
  return html`<form class="stack" onSubmit=${start} aria-busy=${read.some((one) => one.loading)}>
    <${Title} title=${like ? `Again: ${like.name}` : "New session"}>One model, trained over the clients of ${project}, round by round<//>
    ${missing && html`<section class="card"><${Failure} error=${missing.error} retry=${() => read.forEach((one) => one.reload())} /></section>`}
    <${Card} title="The app" note="what is trained, and how a client reads its data"><fieldset class="body form"><legend class="visually-hidden">The app</legend>
      <div class="choice">
        ${radio("code", "example", code, choose, "The example", "Handwritten digits, each client with its own mix of them")}
        ${radio("code", "file", code, choose, "A file of yours", "One .py file, or a package of several files")}
        ${radio("code", "package", code, choose, "A package that is here", packages.data ? plural(packages.data.total, "package") : "…", packages.data?.total === 0)}
      </div>
      ${code === "file" && html`<label class="drop" data-over=${over || undefined} onDragOver=${(event) => { event.preventDefault(); drag(true); }} onDragLeave=${() => drag(false)}
          onDrop=${(event) => { event.preventDefault(); drag(false); take(event.dataTransfer.files[0] ?? null); }}>
        <input type="file" accept=".py,.hansa" aria-label="The app's file" onChange=${(event) => take(event.target.files[0] ?? null)} />
        ${file ? html`<b>${file.name}</b>, ${plural(file.size, "byte")}` : "Drop app.py here, or choose it"}
      </label>`}
      ${code === "package" && html`<label class="field"><span>Package</span><select name="package" required>${packages.data?.items.map((one) => html`<option key=${one.id} value=${one.id} selected=${one.id === chosen}>${one.name} · ${one.id.slice(0, 10)}</option>`)}</select></label>`}
    </fieldset><//>
    <${Card} title="Where it runs"><fieldset class="body form"><legend class="visually-hidden">Where it runs</legend>
      <div class="choice">
        ${radio("where", "network", runs, place, "On the network", here.data ? (connected ? `${plural(connected, "client")} connected now` : "no client is connected: it would wait for one") : "…")}
        ${radio("where", "here", runs, place, "Simulate here", "Virtual clients on the server's machine; no client is needed")}
      </div>
    </fieldset><//>
    <${Card} title="Settings"><div class="body form two">
      <label class="field"><span>Name</span><input name="name" pattern="[A-Za-z0-9._\\-]{1,100}" required defaultValue=${defaults.name} autocomplete="off" /></label>
      <label class="field"><span>Rounds</span><input name="rounds" type="number" min="1" max="1000000" required defaultValue=${defaults.rounds} /></label>
      <label class="field"><span>${runs === "here" ? "Virtual clients" : "Clients at least"}</span><input key=${runs} name="clients" type="number" min="1" max=${runs === "here" ? 1000 : undefined} required defaultValue=${runs === "here" ? 10 : Math.max(1, defaults.rules.min_clients)} /></label>
      <${Registered} label="Algorithm" field="algorithm" choices=${installed.data?.algorithms} chosen=${algorithm} onChoose=${pickAlgorithm} options=${like?.spec.algorithm === algorithm ? like.spec.algorithm_options : {}} />
      <${Registered} label="Aggregator" field="aggregator" choices=${installed.data?.aggregators} chosen=${aggregator} onChoose=${pickAggregator} options=${like?.spec.aggregator === aggregator ? like.spec.aggregator_options : {}} />
      <label class="field"><span>Deadline of a round, seconds</span><input name="deadline" type="number" min="1" step="any" required defaultValue=${defaults.rules.deadline} /></label>
      <label class="field"><span>Seed</span><input name="seed" type="number" min="0" step="1" required defaultValue=${defaults.seed} /><small>The same seed gives the same model</small></label>
      <label class="field"><span>Keep models of</span><input name="keep" placeholder="all, or: last 5, best accuracy max" defaultValue=${like?.keep ?? ""} autocomplete="off" /><small>Empty: the server's default</small></label>
    </div><//>
    ${state.error && html`<div role="alert"><${Notice} kind="bad">${state.error.message}<//></div>`}
    <div class="actions"><button class="button primary" disabled=${Boolean(state.step)}>${state.step || "Start the session"}</button><a class="button quiet" href=${to("p", project, "sessions")}>Cancel</a></div>
  </form>`;
}
