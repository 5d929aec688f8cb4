// What happened in the project, as it happens.
import { call, path, query } from "../api.js";
import { useApp } from "../context.js";
import { html, useState } from "../html.js";
import { iso } from "../format.js";
import { EventLines } from "../parts/events.js";
import { Card, Title } from "../parts/page.js";
import { Choose, SaveList } from "../parts/table.js";
import { Icon } from "../parts/icon.js";
import { setQuery } from "../router.js";

const KINDS = ["session.created", "session.started", "session.finished", "session.failed", "session.stopped", "round.opened", "round.committed", "round.evaluated", "task.failed", "client.connected", "combiner.connected", "node.left"];
const PAGE = 1000;
const MOST = 100000;

export function Events({ route }) {
  const { project } = useApp();
  const [following, follow] = useState(true);
  const kind = route.query.kind ?? "";
  const filter = kind ? { kind } : {};
  const all = async () => {
    const rows = [];
    for (let after = -1; rows.length < MOST; ) {
      const page = await call(path`/projects/${project}/events` + query({ ...filter, after, limit: PAGE }));
      rows.push(...page.items);
      if (page.items.length < PAGE) break;
      after = page.items.at(-1).id;
    }
    return rows;
  };
  return html`<div class="stack">
    <${Title} title="Events">What happened in ${project}, the newest first<//>
    <${Card} title="Events" note=${following ? "new ones appear as they happen" : "held: new ones wait"} right=${html`
        <${Choose} label="Kind" value=${kind} options=${[["", "All kinds"], ...KINDS.map((one) => [one, one])]} onChange=${(value) => setQuery({ kind: value })} />
        <button class="button small" aria-pressed=${!following} onClick=${() => follow(!following)}><${Icon} name=${following ? "player-stop" : "player-play"} />${following ? "Hold" : "Follow"}</button>
        <${SaveList} name=${`events-${project}`} fetch=${all} columns=${[["id", (e) => e.id], ["at", (e) => iso(e.at)], ["kind", (e) => e.kind], ["session", (e) => e.session], ["message", (e) => e.message], ["data", (e) => JSON.stringify(e.data)]]} />`}>
      <${EventLines} key=${`${kind} ${following}`} most=${200} filter=${filter} follow=${following} passes=${(event) => !kind || event.kind === kind} />
    <//>
  </div>`;
}
