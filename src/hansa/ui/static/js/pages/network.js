// The network: the controller, its combiners at any depth, and how many clients are where.
import { path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { count, plural } from "../format.js";
import { html } from "../html.js";
import { EventLines } from "../parts/events.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Notice, Title } from "../parts/page.js";
import { SaveDrawing } from "../parts/picture.js";
import { Bar, Empty, Loaded } from "../parts/states.js";
import { Ago, Status } from "../parts/status.js";
import { Rows } from "../parts/table.js";
import { Counts, Tree, named } from "../parts/tree.js";
import { go, to } from "../router.js";

const ofNodes = ({ event }) => event && /^(client|combiner|node)\./.test(event.kind);

export function Network() {
  const { project, can } = useApp();
  const found = useResource(path`/projects/${project}/network`, { on: ofNodes, every: 30000 });
  const choose = (name) => name && go(`${to("p", project, "clients")}?combiner=${encodeURIComponent(name)}`);
  return html`<${Loaded} resource=${found} level=${1} skeleton=${html`<${Title} title="Network" /><div class="card body"><${Bar} width=${300} /></div>`}>${(network) => {
    const away = network.servers.filter((one) => !one.connected);
    const deepest = depth(network.servers);
    return html`<div class="stack">
      <${Title} title="Network" actions=${can("admit_nodes") && html`<a class="button primary" href=${to("p", project, "clients", "join")}><${Icon} name="plus" />Join a node</a>`}>Every node dials out to its parent; none opens a port to the world<//>
      <${Figures} items=${[
        { label: "Connected clients", value: count(network.connected), unit: `/ ${count(network.clients)}`, sub: network.clients > network.connected ? `${count(network.clients - network.connected)} away` : "all are here" },
        { label: "Combiners", value: count(network.servers.length - 1), sub: away.length ? `${count(away.length)} away` : "all connected" },
        { label: "Levels", value: count(deepest + 1), sub: "from the controller down" },
        { label: "Clients per server", value: count(Math.round(network.connected / Math.max(1, network.servers.filter((one) => one.clients).length))), sub: "where there are any, on average" },
      ]} />
      ${away.length > 0 && html`<${Notice} kind="warn">${plural(away.length, "combiner is", "combiners are")} away: ${away.slice(0, 5).map((one) => one.name).join(", ")}${away.length > 5 ? " and more" : ""}. Their clients are sent to other servers until they come back.<//>`}
      <${Card} title="Aggregation tree" note="choose a server to see its clients" right=${html`<${SaveDrawing} title="Aggregation tree" />`}>
        ${network.connected + network.servers.length > 1
          ? html`<div class="body split"><${Tree} servers=${network.servers} onChoose=${choose} /><${Counts} counts=${[["connected", network.connected], ["offline", network.clients - network.connected]]} /></div>`
          : html`<${Empty} icon="sitemap" title="Only the controller is here" actions=${can("admit_nodes") && html`<a class="button primary" href=${to("p", project, "clients", "join")}>Join a client</a>`}>Clients join the controller itself, or combiners between them and it.<//>`}
      <//>
      ${network.servers.length > 1 && html`<${Card} title="Servers"><${Rows} label="Servers" rows=${network.servers} identify=${(one) => one.name} columns=${[
        { id: "name", label: "Server", sort: "name", show: (one) => html`<span class="name">${named(one)}</span>` },
        { id: "state", label: "Status", sort: "connected", show: (one) => html`<${Status} state=${one.connected ? "connected" : "offline"}>${one.connected ? "connected" : "away"}<//>` },
        { id: "parent", label: "Parent", sort: "parent", show: (one) => (one.parent === "root" ? "controller" : one.parent || "—") },
        { id: "clients", label: "Clients", n: true, sort: "clients", show: (one) => count(one.clients) },
        { id: "address", label: "Address", show: (one) => html`<span class="mono">${one.address || "—"}</span>` },
        { id: "seen", label: "Last seen", n: true, sort: "last_seen", show: (one) => (one.connected ? "now" : html`<${Ago} at=${one.last_seen} />`) },
      ]} /><//>`}
      <${Card} title="Comings and goings"><${EventLines} most=${20} filter=${{ kind: ["client.connected", "combiner.connected", "node.left"] }} passes=${(event) => /^(client|combiner|node)\./.test(event.kind)} /><//>
    </div>`;
  }}<//>`;
}

function depth(servers) {
  const parents = new Map(servers.map((one) => [one.name, one.parent]));
  let most = 0;
  for (const { name } of servers) {
    let steps = 0;
    for (let at = name; parents.get(at) && steps < servers.length; at = parents.get(at)) steps += 1;
    most = Math.max(most, steps);
  }
  return most;
}
