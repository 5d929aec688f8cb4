// What the server has, kept fresh: read once, and again when an event says that it has changed.
import { call } from "./api.js";
import { useCallback, useEffect, useRef, useState } from "./html.js";
import { useNews } from "./stream.js";

const PAUSE = 700; // milliseconds between two readings of one resource at least

/**
 * A resource of the API. Returns {data, error, loading, at, reload}.
 * path: null reads nothing. on: which events make it old, as a function of {event} or {live}; after a break it is always old.
 * What was read stays shown while it is read anew, and when that fails.
 * @param {string | null} path
 * @param {{on?: (news: any) => any, every?: number}} [options]
 */
export function useResource(path, { on, every } = {}) {
  const [state, set] = useState({ path, data: null, error: null, at: null });
  const busy = useRef(null);
  const old = useRef(false);
  const last = useRef(0);

  const load = useCallback(async () => {
    if (path === null) return;
    if (busy.current?.path === path) {
      old.current = true;
      return;
    }
    busy.current?.stop.abort();
    const mine = { path, stop: new AbortController() };
    busy.current = mine;
    old.current = false;
    last.current = Date.now();
    try {
      const data = await call(path, { signal: mine.stop.signal });
      set({ path, data, error: null, at: Date.now() });
    } catch (error) {
      if (error.name !== "AbortError") set((before) => ({ ...(before.path === path ? before : { data: null, at: null }), path, error }));
    } finally {
      if (busy.current === mine) busy.current = null;
      if (old.current && !mine.stop.signal.aborted) later();
    }
  }, [path]);

  const timer = useRef();
  const later = useCallback(() => {
    if (timer.current) return;
    timer.current = setTimeout(() => {
      timer.current = undefined;
      load();
    }, Math.max(0, last.current + PAUSE - Date.now()));
  }, [load]);

  useEffect(() => {
    load();
    return () => {
      clearTimeout(timer.current);
      timer.current = undefined;
      busy.current?.stop.abort();
      busy.current = null;
    };
  }, [load]);

  useEffect(() => {
    if (!every) return undefined;
    const tick = setInterval(() => document.visibilityState === "visible" && later(), every);
    return () => clearInterval(tick);
  }, [every, later]);

  useNews(({ news, gap, connection }) => {
    if (!on) return;
    if (gap || connection?.state === "live" || news?.some(on)) later();
  });

  const mine = state.path === path;
  return { data: mine ? state.data : null, error: mine ? state.error : null, loading: !mine || (!state.data && !state.error), at: mine ? state.at : null, reload: load };
}

const clocks = new Map(); // by their milliseconds; all who read one hear of a tick together, and are drawn at once

function tell(every, reader) {
  if (!clocks.has(every)) {
    const made = { readers: new Set(), tick: 0 };
    made.tick = setInterval(() => {
      for (const one of made.readers) one(Date.now() / 1000);
    }, every);
    clocks.set(every, made);
  }
  const { readers, tick } = clocks.get(every);
  readers.add(reader);
  return () => {
    readers.delete(reader);
    if (readers.size) return;
    clearInterval(tick);
    clocks.delete(every);
  };
}

/** A clock for relative times: seconds since 1970, renewed every so many milliseconds. */
export function useNow(every = 1000) {
  const [now, set] = useState(Date.now() / 1000);
  useEffect(() => tell(every, set), [every]);
  return now;
}
