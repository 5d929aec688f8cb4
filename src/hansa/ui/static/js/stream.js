// What happens in the project that is shown, for every part of the page that wants to know.
import { call } from "./api.js";
import { useEffect, useRef, useState } from "./html.js";

const PULSE = 5000;
const listeners = new Set();
let state = { state: "connecting", since: Date.now(), heard: Date.now() };
let following = null;
let port = null;

function connect() {
  if (port) return;
  if ("SharedWorker" in globalThis) {
    const worker = new SharedWorker(new URL("./feed-worker.js", import.meta.url), { type: "module", name: "hansa-feed" });
    port = worker.port;
    port.onmessage = ({ data }) => data.project === following && receive(data);
    port.start();
  } else {
    port = alone();
  }
  setInterval(() => port.postMessage({ pulse: true }), PULSE);
  addEventListener("online", () => port.postMessage({ hurry: true }));
  addEventListener("pagehide", () => port.postMessage({ bye: true }));
  addEventListener("pageshow", (event) => event.persisted && location.reload());
  document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && port.postMessage({ hurry: true }));
}

/** Where a browser has no SharedWorker, each tab has a stream of its own. */
function alone() {
  let feed = null;
  const load = import("./feed.js");
  return {
    postMessage: async (data) => {
      const { Feed } = await load;
      if (data.follow !== undefined) {
        feed?.close();
        feed = new Feed(data.follow, data.after);
        feed.follow((message) => following === data.follow && receive(message), data.after);
      } else if (data.leave !== undefined || data.drop !== undefined || data.bye) feed?.close();
      else if (data.hurry) feed?.hurry();
    },
  };
}

function receive(message) {
  if (message.state) {
    state = { state: message.state, since: message.since, heard: Date.now() };
    if (message.state === "lost") call("/me").catch(() => {}); // signed out, or only away? the answer says
    emit({ connection: state });
  }
  if (message.gap) emit({ gap: true });
  if (message.news) {
    state = { ...state, heard: Date.now() };
    emit({ news: message.news });
  }
}

function emit(message) {
  for (const listener of [...listeners]) listener(message);
}

/** Follow a project after a cursor; returns how to stop. What is read after the cursor was, and kept fresh by events, misses nothing. */
export function follow(project, after) {
  connect();
  following = project;
  port.postMessage({ follow: project, after });
  return () => {
    if (following === project) following = null;
    port.postMessage({ leave: project });
  };
}

/** End the stream at once: its reader is about to lose the right to it. */
export function drop() {
  if (following === null) return;
  port.postMessage({ drop: following });
  following = null;
}

/** Hear of stored events and live items: `news` is a list of {event} and {live}; `gap`: read anew. */
export function useNews(listener) {
  const current = useRef(listener);
  current.current = listener;
  useEffect(() => {
    const heard = (message) => current.current(message);
    listeners.add(heard);
    return () => listeners.delete(heard);
  }, []);
}

/** {state: connecting | live | lost, since}: milliseconds since 1970. */
export function useConnection() {
  const [shown, set] = useState(state);
  useNews((message) => message.connection && set(message.connection));
  return shown;
}
