// A session's curves, which grow round by round: only what is new is read again.
import { call, path } from "../api.js";
import { useEffect, useRef, useState } from "../html.js";
import { useNews } from "../stream.js";

const PAUSE = 700;
const AGAIN = 2; // rounds that are read again: they may have been evaluated since

const key = (one) => `${one.kind}/${one.name}/${one.client ?? ""}`;

/** Columns of `fresh` after those of `known`: rounds that both have are taken from `fresh`. */
function joined(known, fresh, axis) {
  if (!known) return fresh;
  const first = fresh[axis][0] ?? Infinity;
  const n = known[axis].findLastIndex((round) => round < first) + 1;
  const made = { ...fresh };
  for (const [name, column] of Object.entries(fresh)) if (Array.isArray(column)) made[name] = known[name].slice(0, n).concat(column);
  return made;
}

function merged(known, fresh) {
  if (!known) return fresh;
  const all = new Map(known.map((one) => [key(one), one]));
  for (const one of fresh) all.set(key(one), joined(all.get(key(one)), one, "rounds"));
  return [...all.values()];
}

/** {curves, bands, rounds, error}; null until they are known. The bands come later: they take every client's numbers. */
export function useCurves(project, session) {
  const base = path`/projects/${project}/sessions/${session}`;
  const [state, set] = useState({ curves: null, bands: null, rounds: null, error: null });
  const last = useRef(0);
  const busy = useRef(false);
  const old = useRef(false);

  const load = async (whole) => {
    if (busy.current) {
      old.current = true;
      return;
    }
    busy.current = true;
    old.current = false;
    const after = whole ? 0 : Math.max(0, last.current - AGAIN);
    try {
      const read = (what) => call(`${base}/${what}?after=${after}`);
      if (whole) {
        const { curves, rounds } = await read("curves");
        last.current = rounds.number.at(-1) ?? last.current;
        set((before) => ({ ...before, error: null, curves, rounds }));
        const { bands } = await read("spread");
        set((before) => ({ ...before, bands }));
      } else {
        const [{ curves, rounds }, { bands }] = await Promise.all([read("curves"), read("spread")]); // drawn once, together
        last.current = rounds.number.at(-1) ?? last.current;
        set((before) => ({ error: null, curves: merged(before.curves, curves), rounds: joined(before.rounds, rounds, "number"), bands: merged(before.bands, bands) }));
      }
    } catch (error) {
      set((before) => ({ ...before, error }));
    } finally {
      setTimeout(() => {
        busy.current = false;
        if (old.current) load(false);
      }, PAUSE);
    }
  };
  useEffect(() => { load(true); }, [base]);
  useNews(({ news, gap, connection }) => {
    if (gap || connection?.state === "live" || news?.some(({ event }) => event?.session === session && /^round\.|^session\./.test(event.kind))) load(false);
  });
  return state;
}
