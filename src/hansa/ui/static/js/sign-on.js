// Signing in by the server's OpenID provider: there and back again, with PKCE (RFC 7636).
import { call } from "./api.js";
import { ROOT } from "./router.js";

const KEY = "hansa.sign-on"; // what this tab has begun: of use once, to itself, and gone when it is back
const LOCAL = /^(127\.0\.0\.1|localhost|\[::1\])$/;

const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");

/** A page of the Studio, whatever was asked for: nobody is sent elsewhere once they are signed in. */
export function inside(address) {
  try {
    const url = new URL(address, location.origin);
    return url.origin === location.origin && url.pathname.startsWith(ROOT) ? url.pathname + url.search : ROOT;
  } catch {
    return ROOT;
  }
}

/** Where the server sends a browser to; it goes to a web page over TLS, or on this very machine, and to nothing else. */
export function page(address) {
  const url = new URL(address);
  if (url.protocol === "https:" || (url.protocol === "http:" && LOCAL.test(url.hostname))) return url.href;
  throw new Error(`The server sends the browser to ${address.slice(0, 100)}, which is no https:// address: nothing was opened.`);
}

/** Go to the provider. redirect: where it sends the browser back to, a page of this Studio. */
export async function leave(redirect) {
  if (!globalThis.crypto?.subtle) throw new Error("Browsers sign in by OpenID over https alone: open the Studio by its https:// address.");
  const verifier = base64url(crypto.getRandomValues(new Uint8Array(48)));
  const challenge = base64url(new Uint8Array(await crypto.subtle.digest("SHA-256", new TextEncoder().encode(verifier))));
  const begun = await call("/login/oidc", { method: "POST", body: { redirect, challenge } });
  const to = page(begun.authorization_url);
  sessionStorage.setItem(KEY, JSON.stringify({ state: begun.state, verifier, back: location.pathname + location.search }));
  location.assign(to);
}

/** What the provider has sent, where this address is its answer: it is spent, and taken out of the address and the history. */
export function returned() {
  const given = new URLSearchParams(location.search);
  if (location.pathname !== ROOT || !given.has("state") || !(given.has("code") || given.has("error"))) return null;
  history.replaceState(null, "", ROOT);
  const begun = JSON.parse(sessionStorage.getItem(KEY) ?? "null");
  sessionStorage.removeItem(KEY);
  return { given, begun };
}

/** Finish what `leave` began; returns the page from which it was begun. */
export async function arrive({ given, begun }) {
  if (begun?.state !== given.get("state")) throw new Error("This login was not begun here, or was finished already: sign in again.");
  if (given.has("error")) throw new Error(`The OpenID provider refuses the login: ${given.get("error").slice(0, 100)}`);
  const body = { state: begun.state, code: given.get("code"), verifier: begun.verifier, iss: given.get("iss"), cookie: true };
  await call("/login/oidc/code", { method: "POST", body });
  return inside(begun.back);
}
