// Numbers, sizes, times and names as a person reads them. "—" stands for what is absent.

export const ABSENT = "—";
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });

export const absent = (value) => typeof value !== "number" || Number.isNaN(value);

/** What an object itself has under a name that somebody else has chosen: "constructor" is of every object. */
export const own = (object, name) => (Object.hasOwn(object, name) ? object[name] : undefined);

/** 12,345 */
export const count = (value) => (absent(value) ? ABSENT : whole.format(value));

/** How often in a minute: 12,345 or 0.3. */
export const rate = (value) => (absent(value) ? ABSENT : value >= 10 ? whole.format(value) : String(+value.toPrecision(2)));

/** Text with the beginnings of the long digests and keys in it: the whole is for a title. */
export const brief = (text) => text.replace(/\b[0-9a-f]{24,}\b/g, (digits) => `${digits.slice(0, 12)}…`);

/** Four significant digits, without an exponent where it can be read without one. */
export function number(value) {
  if (absent(value)) return ABSENT;
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(2).replace("e", " × 10^").replace("^+", "^");
  if (size >= 1000) return whole.format(value);
  return value.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : size >= 0.1 ? 3 : 5);
}

/** Whether a metric of this name lies between 0 and 1 and is read as a share. */
export const isShare = (name) => /accuracy|precision|recall|^f1|auc|_rate$/.test(name);

/** What servers measure of each update, among the metrics of training. */
export const NORM = "update_norm";

/** A metric's or a setting's name as a heading: what stands there, should it be empty, can be seen. */
export const title = (name) => (name ? name[0].toUpperCase() + name.slice(1).replaceAll("_", " ") : "(no name)");

/** A metric's value, with the unit that its name promises. */
export function metric(name, value) {
  if (absent(value)) return ABSENT;
  return isShare(name) && Math.abs(value) <= 1 ? `${(100 * value).toFixed(1)} %` : number(value);
}

/** 2.4 MB; powers of 1,000. */
export function bytes(value) {
  if (absent(value)) return ABSENT;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let size = value;
  let unit = 0;
  while (size >= 999.5 && unit < units.length - 1) {
    size /= 1000;
    unit += 1;
  }
  return `${unit === 0 || size >= 99.5 ? Math.round(size) : size.toFixed(1)} ${units[unit]}`;
}

/** A length of time: 0.4 s, 38 s, 12 min, 1 h 21 min, 3 d. */
export function span(seconds) {
  if (absent(seconds)) return ABSENT;
  const s = Math.max(0, seconds);
  if (s < 0.0995) return `${Math.round(1000 * s)} ms`;
  if (s < 9.95) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) {
    const minutes = Math.round(s / 60);
    return minutes % 60 ? `${Math.floor(minutes / 60)} h ${minutes % 60} min` : `${minutes / 60} h`;
  }
  return `${Math.round(s / 86400)} d`;
}

/** How long ago, or in how long, in one word or two. */
export function ago(at, now = Date.now() / 1000) {
  if (absent(at)) return ABSENT;
  const s = now - at;
  if (s < -1) return `in ${span(-s)}`;
  return s < 2 ? "now" : `${s < 90 ? `${Math.round(s)} s` : span(s)} ago`;
}

export const time = (at) => clock.format(new Date(1000 * at));
export const moment = (at) => (absent(at) ? ABSENT : full.format(new Date(1000 * at)));
export const iso = (at) => new Date(1000 * at).toISOString();

/** The first digits of a digest or key: enough to tell two apart on a page. */
export const short = (digest) => (digest ? digest.replace(/^ed25519:/, "").slice(0, 10) : ABSENT);

/** "1 round", "2 rounds" */
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`;
