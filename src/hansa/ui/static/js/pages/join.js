// Letting a node in: a name, a token that is shown once, a command to copy, and the node as it appears.
import { call, path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { moment } from "../format.js";
import { html, useState } from "../html.js";
import { Command } from "../parts/acts.js";
import { Card, Notice, Title } from "../parts/page.js";
import { useNews } from "../stream.js";
import { to } from "../router.js";
import { Form } from "./projects.js";

export function Join() {
  const { project, can } = useApp();
  const server = useResource("/server");
  const [made, show] = useState(null);
  const [here, arrive] = useState(false);
  useNews(({ news }) => {
    if (made && news?.some(({ event }) => event && /^(client|combiner)\.connected$/.test(event.kind) && event.data.name === made.record.name)) arrive(true);
  });
  const send = async ({ name, role, days }) => {
    arrive(false);
    show(await call(path`/projects/${project}/tokens`, { method: "POST", body: { name, role, expires_in: Number(days) * 86400 } }));
  };
  const role = made?.record.role ?? "client";
  const ca = server.data?.ca ? ` \\\n  --ca ${server.data.ca}` : "";
  const scheme = server.data && !server.data.ca && location.protocol === "http:" && !server.data.grpc_address.includes("//") ? "tcp://" : "";
  const command = made && server.data && `HANSA_TOKEN=${made.token} \\\n  hansa ${role} start --join ${scheme}${server.data.grpc_address}${ca}`;
  return html`<div class="stack">
    <${Title} title="Join a node">A client holds data; a combiner sums updates between clients and the controller. Both dial out and open no port to the world.<//>
    ${!can("admit_nodes") && html`<${Notice} kind="warn">Your role may not admit nodes: ask a maintainer or an owner of ${project} for a command.<//>`}
    ${can("admit_nodes") && html`<${Card} title="Who joins"><div class="body"><${Form} two send=${send} button=${made ? "Make another token" : "Make the command"}>
      <label class="field"><span>Name</span><input name="name" pattern="[A-Za-z0-9._\\-]{1,100}" required autocomplete="off" placeholder="hospital-north" autofocus /><small>Unique in the project</small></label>
      <label class="field"><span>Kind</span><select name="role"><option value="client">client</option><option value="combiner">combiner</option></select></label>
      <label class="field"><span>Days in which it has to join</span><input name="days" type="number" min="1" max="366" defaultValue="7" required /></label>
    <//></div><//>`}
    ${command && html`<${Card} title="On the ${role}'s machine" note="run this once; the token is in it, and is shown this once"><div class="body stack">
      <p class="second">Where hansa is not installed yet: <code>pip install hansa</code>. The token has to be used before ${moment(made.record.expires_at)}.</p>
      <${Command} text=${command} label="Copy the command" />
      ${here
        ? html`<${Notice} kind="good" live><b>${made.record.name} is connected.</b> <a href=${role === "client" ? to("p", project, "clients", made.record.name) : to("p", project, "network")}>See it</a>, or <a href=${to("p", project, "sessions", "new")}>start a session</a>.<//>`
        : html`<${Notice} live>Waiting for ${made.record.name} to connect; it appears here by itself.<//>`}
    </div><//>`}
  </div>`;
}
