// Sessions as rows.
import { useApp } from "../context.js";
import { count } from "../format.js";
import { html } from "../html.js";
import { to } from "../router.js";
import { Icon } from "./icon.js";
import { Empty } from "./states.js";
import { Ago, Status } from "./status.js";
import { Rows } from "./table.js";

export const sessionColumns = (project) => [
  { id: "name", label: "Session", sort: "name", show: (one) => html`<a class="name" href=${to("p", project, "sessions", one.id)}>${one.name}</a> <span class="muted mono">${one.id.slice(0, 6)}</span>` },
  { id: "state", label: "Status", sort: "state", show: (one) => html`<${Status} state=${one.state} />` },
  { id: "round", label: "Rounds", n: true, sort: "round", show: (one) => `${count(one.round)} / ${count(one.spec.rounds)}` },
  { id: "algorithm", label: "Algorithm", show: (one) => (one.spec.parties.length ? "program" : one.spec.algorithm) },
  { id: "aggregator", label: "Aggregator", show: (one) => one.spec.aggregator },
  { id: "cause", label: "Cause", clip: true, show: (one) => one.cause.split("\n")[0] || "—" },
  { id: "created_at", label: "Created", n: true, sort: "created_at", show: (one) => html`<${Ago} at=${one.created_at} />` },
];

export const NoSessions = () => {
  const { project, can } = useApp();
  return html`<${Empty} icon="player-play" title="No session yet" actions=${can("run") && html`<a class="button primary" href=${to("p", project, "sessions", "new")}><${Icon} name="plus" />Start a session</a>`}>A session trains one model over the clients of this project, round by round.<//>`;
};

export function SessionRows({ sessions }) {
  const { project } = useApp();
  return html`<${Rows} columns=${sessionColumns(project).map((column) => ({ ...column, sort: undefined }))} rows=${sessions} saved label="Sessions" empty=${html`<${NoSessions} />`} />`;
}
