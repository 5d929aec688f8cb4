// All sessions of the project.
import { path } from "../api.js";
import { useApp } from "../context.js";
import { iso, plural } from "../format.js";
import { html, useState } from "../html.js";
import { Icon } from "../parts/icon.js";
import { Card, Title } from "../parts/page.js";
import { NoSessions, sessionColumns } from "../parts/sessions.js";
import { Empty } from "../parts/states.js";
import { Choose, List, SaveList, everything } from "../parts/table.js";
import { setQuery, to } from "../router.js";

const STATES = [["", "All states"], ["running", "running"], ["finished", "finished"], ["failed", "failed"], ["stopped", "stopped"], ["created", "created"]];
const when = (at) => (at ? iso(at) : null);
const SAVED = [["id", (one) => one.id], ["name", (one) => one.name], ["state", (one) => one.state], ["round", (one) => one.round], ["rounds", (one) => one.spec.rounds], ["algorithm", (one) => one.spec.algorithm],
  ["aggregator", (one) => one.spec.aggregator], ["cause", (one) => one.cause], ["created", (one) => when(one.created_at)], ["started", (one) => when(one.started_at)], ["ended", (one) => when(one.ended_at)], ["model", (one) => one.model]];
const changes = ({ event }) => event && /^session\.|^round\.committed/.test(event.kind);

export function Sessions({ route }) {
  const { project, can } = useApp();
  const [total, tell] = useState(null);
  const [picked, pick] = useState([]);
  const state = route.query.state ?? "";
  const toggle = (id) => pick(picked.includes(id) ? picked.filter((one) => one !== id) : [...picked, id]);
  const columns = [
    { id: "pick", label: "", name: "Compare", show: (one) => html`<input type="checkbox" aria-label=${`Compare ${one.name} ${one.id.slice(0, 6)}`} checked=${picked.includes(one.id)} onChange=${() => toggle(one.id)} />` },
    ...sessionColumns(project),
  ];
  return html`<div class="stack">
    <${Title} title="Sessions" actions=${html`
      <a class="button" aria-disabled=${picked.length < 2 ? "true" : undefined} href=${picked.length < 2 ? undefined : `${to("p", project, "sessions", "compare")}?ids=${picked.join(",")}`}><${Icon} name="git-compare" />Compare${picked.length ? ` ${picked.length}` : ""}</a>
      ${can("run") && html`<a class="button primary" href=${to("p", project, "sessions", "new")}><${Icon} name="plus" />New session</a>`}`}>
      ${picked.length < 2 ? "Choose two or more to compare them" : `${plural(picked.length, "session")} chosen`}
    <//>
    <${Card} title="All sessions" note=${total === null ? "" : plural(total, "session")} right=${html`<${Choose} label="State" value=${state} options=${STATES} onChange=${(value) => setQuery({ state: value })} />
      <${SaveList} name=${`sessions-${project}`} fetch=${() => everything(path`/projects/${project}/sessions`, { state: state || null, sort: "-created_at" })} columns=${SAVED} />`}>
      <${List} saved path=${path`/projects/${project}/sessions`} filter=${{ state: state || null }} sort="-created_at" columns=${columns} on=${changes} label="Sessions" onTotal=${tell}
        empty=${state ? html`<${Empty} icon="search" title=${`No session is ${state}`} actions=${html`<button class="button" onClick=${() => setQuery({ state: null })}>Show all</button>`} />` : html`<${NoSessions} />`} />
    <//>
  </div>`;
}
