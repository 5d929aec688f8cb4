// What each client of a session does now: from live items, which nobody keeps.
import { useState } from "../html.js";
import { useNews } from "../stream.js";

const NOTHING = new Map();

/** Client → training, evaluating, accepted, rejected, failed. */
export function useWorking(session, running) {
  const [states, set] = useState(NOTHING);
  useNews(({ news }) => {
    if (!news) return;
    let next = null;
    const put = (client, state) => (next ??= new Map(states)).set(client, state);
    for (const { event, live } of news) {
      if (event?.session === session && event.kind === "round.opened") for (const client of event.data.invited ?? []) put(client, "training");
      if (live?.session !== session) continue;
      const { client, phase } = live.data;
      if (/^(train|evaluate)\.opened$/.test(live.kind)) next = new Map();
      else if (live.kind === "client.progress") put(client, phase === "evaluate" ? "evaluating" : "training");
      else if (/^client\.(accepted|rejected|failed)$/.test(live.kind)) put(client, live.kind.slice(7));
    }
    if (next) set(next);
  });
  return running ? states : NOTHING;
}
