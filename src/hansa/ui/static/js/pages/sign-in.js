// Signing in: by name and password, a token, the server's OpenID provider, or the link that `hansa up` and `hansa studio` print.
import { call } from "../api.js";
import { html, useEffect, useState } from "../html.js";
import { Icon } from "../parts/icon.js";
import { Notice } from "../parts/page.js";
import { go } from "../router.js";
import { arrive, leave, returned } from "../sign-on.js";

const code = () => new URLSearchParams(location.hash.slice(1)).get("code");

export function SignIn({ onDone }) {
  const [way, choose] = useState("password");
  const [error, setError] = useState(null);
  const [busy, work] = useState(Boolean(code()));
  const [openid, offer] = useState(""); // where the provider sends browsers back to

  const enter = async (act) => {
    setError(null);
    work(true);
    try {
      await act();
      await onDone();
    } catch (failure) {
      setError(failure);
      work(false);
    }
  };

  useEffect(() => {
    document.title = "Sign in · hansa Studio";
    call("/login").then((ways) => offer(ways.openid), () => {}); // who cannot be asked says so when one signs in
    const came = returned();
    if (came) enter(async () => go(await arrive(came), { replace: true }));
    const given = code();
    if (!given) return;
    history.replaceState(null, "", location.pathname + location.search); // it is spent: it must not stay in the history
    enter(() => call("/login/code", { method: "POST", body: { code: given } }));
  }, []);

  const begin = async () => {
    setError(null);
    work(true);
    try {
      await leave(openid);
    } catch (failure) {
      setError(failure);
    } finally {
      work(false); // who comes back by the browser's own button finds it as it was
    }
  };

  const submit = (event) => {
    event.preventDefault();
    const given = new FormData(event.target);
    enter(() => way === "password"
      ? call("/login", { method: "POST", body: { name: given.get("name"), password: given.get("password"), cookie: true } })
      : call("/login/browser", { method: "POST", token: String(given.get("token")).trim() }).catch((failure) => {
        throw failure.status === 401 ? Object.assign(failure, { message: "This token does not hold: it may be misspelt, expired or revoked." }) : failure;
      }));
  };

  return html`<main class="door"><section class="card" aria-label="Sign in">
    <div class="brand"><img src=${new URL("../../icon.svg", import.meta.url).href} alt="" />hansa <span>Studio</span></div>
    <h1>Sign in</h1>
    <p class="second">${way === "password" ? "With the account that an administrator has made for you." : "A person's token, as in your credentials file. It is exchanged for a login of 12 hours."}</p>
    <form class="form" onSubmit=${submit}>
      ${way === "password"
        ? html`<label class="field" key="name"><span>Name</span><input name="name" autocomplete="username" autocapitalize="none" spellcheck="false" required autofocus /></label>
          <label class="field" key="password"><span>Password</span><input name="password" type="password" autocomplete="current-password" required /></label>`
        : html`<label class="field" key="token"><span>Token</span><input name="token" type="password" autocomplete="off" required autofocus /></label>`}
      ${error && html`<div role="alert"><${Notice} kind="bad">${error.message}<//></div>`}
      <button class="button primary" disabled=${busy}>${busy ? "Signing in …" : "Sign in"}</button>
      ${openid && html`<${OpenId} redirect=${openid} busy=${busy} begin=${begin} />`}
      <button class="button quiet" type="button" onClick=${() => { setError(null); choose(way === "password" ? "token" : "password"); }}>${way === "password" ? "Use a token instead" : "Use a password instead"}</button>
    </form>
    <p class="muted"><small>On the server's own machine, <code>hansa studio</code> opens this page signed in.</small></p>
  </section></main>`;
}

/** There is one address that the provider sends browsers back to: from another one, one goes there first. */
function OpenId({ redirect, busy, begin }) {
  const words = html`<${Icon} name="key" />Sign in with your organisation`;
  if (new URL(redirect).origin !== location.origin) return html`<a class="button" href=${redirect}>${words}</a>`;
  return html`<button class="button" type="button" disabled=${busy} onClick=${begin}>${words}</button>`;
}
