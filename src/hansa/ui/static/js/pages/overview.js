// The project at a glance: what runs, whether all is well, and what a newcomer does first.
import { path } from "../api.js";
import { useApp } from "../context.js";
import { useResource } from "../data.js";
import { bytes, count, plural } from "../format.js";
import { html } from "../html.js";
import { EventLines } from "../parts/events.js";
import { Icon } from "../parts/icon.js";
import { Card, Figures, Title } from "../parts/page.js";
import { SessionRows } from "../parts/sessions.js";
import { Loaded, Bar } from "../parts/states.js";
import { to } from "../router.js";

const ofSession = ({ event }) => event && /^session\.|^round\.committed/.test(event.kind);
const ofNodes = ({ event }) => event && /^(client|combiner|node)\./.test(event.kind);

export function Overview() {
  const { project, can } = useApp();
  const base = path`/projects/${project}`;
  const sessions = useResource(`${base}/sessions?limit=8&sort=-created_at`, { on: ofSession });
  const here = useResource(`${base}/clients?limit=1&connected=true`, { on: ofNodes });
  const known = useResource(`${base}/clients?limit=1`, { on: ofNodes });
  const combiners = useResource(`${base}/combiners?limit=1&connected=true`, { on: ofNodes });
  const quota = useResource(`${base}/quota`, { on: ofSession });
  const failed = useResource(`${base}/sessions?limit=1&state=failed`, { on: ofSession });
  const models = useResource(`${base}/models?limit=1`, { on: ofSession });
  const fresh = sessions.data && known.data && (sessions.data.total === 0 || known.data.total === 0);
  const running = sessions.data?.items.filter((one) => one.state === "running") ?? [];

  return html`<div class="stack">
    <${Title} title=${project} actions=${can("run") && html`<a class="button primary" href=${to("p", project, "sessions", "new")}><${Icon} name="plus" />New session</a>`}>
      ${running.length ? `${plural(running.length, "session")} running now` : "No session is running"}
    <//>
    <${Figures} items=${[
      { label: "Running sessions", value: quota.data ? count(quota.data.sessions.used) : html`<${Bar} width=${30} />`, sub: sessions.data ? `${plural(sessions.data.total, "session")} in all` : "" },
      { label: "Connected clients", value: here.data ? count(here.data.total) : html`<${Bar} width=${30} />`, unit: known.data && `/ ${count(known.data.total)}`, sub: here.data && known.data && known.data.total > here.data.total ? `${count(known.data.total - here.data.total)} away` : known.data?.total ? "all are here" : "none has joined yet" },
      { label: "Combiners", value: combiners.data ? count(combiners.data.total) : html`<${Bar} width=${30} />`, sub: combiners.data?.total === 0 ? "clients join the controller" : "connected" },
      { label: "Failed sessions", value: failed.data ? count(failed.data.total) : html`<${Bar} width=${30} />`, sub: failed.data?.total ? html`<a class="linked" href=${`${to("p", project, "sessions")}?state=failed`}>see why</a>` : "none" },
      { label: "Models", value: models.data ? count(models.data.total) : html`<${Bar} width=${30} />`, sub: "seeds and rounds" },
      { label: "Storage", value: quota.data ? bytes(quota.data.storage.used) : html`<${Bar} width=${50} />`, sub: quota.data?.storage.most ? `of ${bytes(quota.data.storage.most)}` : "no quota" },
    ]} />
    ${fresh && html`<${FirstSteps} clients=${known.data.total} connected=${here.data?.total ?? 0} sessions=${sessions.data.total} models=${models.data?.total ?? 0} />`}
    <${Card} title="Sessions" right=${html`<a class="button small quiet" href=${to("p", project, "sessions")}>All sessions</a>`}>
      <${Loaded} resource=${sessions} skeleton=${html`<div class="body"><${Bar} width=${320} /></div>`}>
        ${(data) => html`<${SessionRows} sessions=${data.items} />`}
      <//>
    <//>
    <${Card} title="Latest events" right=${html`<a class="button small quiet" href=${to("p", project, "events")}>All events</a>`}><${EventLines} most=${8} /><//>
  </div>`;
}

function FirstSteps({ clients, connected, sessions, models }) {
  const { project, can } = useApp();
  return html`<${Card} title="First steps" note="from an empty project to a trained model">
    <ol class="steps">
      <li data-done=${clients > 0 || undefined}><div><b>Join your first client</b><p class="second">A client holds data and trains where the data are. It opens no port: one command connects it to this server.</p>
        ${clients === 0 && can("admit_nodes") && html`<div class="actions"><a class="button primary" href=${to("p", project, "clients", "join")}>Join a client</a></div>`}
        ${clients > 0 && html`<p class="second">${plural(connected, "client")} connected.</p>`}</div></li>
      <li data-done=${sessions > 0 || undefined}><div><b>Start a session</b><p class="second">Choose an app, or begin with the example: handwritten digits. Without a client of your own, the server's machine can stand in for some.</p>
        ${sessions === 0 && can("run") && html`<div class="actions"><a class="button ${clients > 0 ? "primary" : ""}" href=${to("p", project, "sessions", "new")}>Start a session</a></div>`}</div></li>
      <li data-done=${models > 1 || undefined}><div><b>Watch it train, and download the model</b><p class="second">Curves, rounds and clients move as they happen.</p></div></li>
    </ol>
  <//>`;
}
