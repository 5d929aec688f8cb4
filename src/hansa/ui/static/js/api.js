// The REST API that everybody has. Who is calling is in a cookie that this code cannot read.

const ROOT = "/api/v1";

/** What the server says is wrong (RFC 9457), or that it cannot be reached (status 0). */
export class ApiError extends Error {
  constructor(status, title, detail, errors = []) {
    super(detail);
    this.status = status;
    this.title = title;
    this.errors = errors;
  }
}

/**
 * Ask the server. body: what is sent as JSON, or a Blob as it is. Returns what it answers; null for nothing.
 * @param {string} path
 * @param {{method?: string, body?: any, token?: string, signal?: AbortSignal}} [options]
 * @returns {Promise<any>}
 */
export async function call(path, { method = "GET", body, token, signal } = {}) {
  /** @type {Record<string, string>} */
  const headers = {};
  if (token) headers.Authorization = `Bearer ${token}`;
  const raw = body instanceof Blob;
  if (body !== undefined && !raw) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(ROOT + path, { method, headers, signal, body: body === undefined ? undefined : raw ? body : JSON.stringify(body) });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "The server cannot be reached", "It may be restarting, or this computer has lost its network.");
  }
  if (response.status === 204) return null;
  const told = await response.json().catch(() => null);
  if (response.ok) return told;
  if (response.status === 401 && !path.startsWith("/login")) dispatchEvent(new CustomEvent("hansa:signed-out"));
  throw new ApiError(response.status, told?.title ?? `HTTP ${response.status}`, told?.detail ?? "The server gave no reason.", told?.errors);
}

/** A path of the API from its parts, each of which may hold any character. */
export const path = (strings, ...values) => String.raw({ raw: strings }, ...values.map((value) => encodeURIComponent(value)));

/** "?a=1&b=2"; what is null or undefined is left out, and a list gives its name several times. */
export function query(values) {
  const made = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) if (one !== undefined && one !== null) made.append(name, one);
  }
  const text = made.toString();
  return text ? `?${text}` : "";
}

/** Where a browser fetches a file. */
export const address = (part) => ROOT + part;
