// The person who is signed in.
import { call } from "../api.js";
import { useApp } from "../context.js";
import { html, useState } from "../html.js";
import { toast } from "../parts/acts.js";
import { Icon } from "../parts/icon.js";
import { Card, Notice, Title } from "../parts/page.js";
import { signOut } from "../parts/shell.js";
import { Rows } from "../parts/table.js";
import { to } from "../router.js";

export function Account() {
  const { me } = useApp();
  const rows = Object.entries(me.roles).map(([project, role]) => ({ id: project, role }));
  return html`<div class="stack">
    <${Title} title=${me.name} actions=${html`<button class="button" onClick=${signOut}><${Icon} name="logout" />Sign out</button>`}>${me.admin ? "Site administrator" : "Your account"}<//>
    <${Card} title="Projects"><${Rows} label="Your projects" rows=${rows} columns=${[
      { id: "project", label: "Project", sort: "id", show: (row) => html`<a class="name" href=${to("p", row.id)}>${row.id}</a>` },
      { id: "role", label: "Your role", sort: "role", show: (row) => row.role },
    ]} empty=${html`<div class="empty"><p>You are a member of no project yet: ask an owner of one.</p></div>`} /><//>
    <${Card} title="Password"><div class="body"><${Password} /></div><//>
  </div>`;
}

function Password() {
  const [error, setError] = useState(null);
  const submit = async (event) => {
    event.preventDefault();
    const form = event.target;
    const given = new FormData(form);
    if (given.get("password") !== given.get("again")) return setError("The two new passwords differ: type the same one twice.");
    setError(null);
    try {
      await call("/me/password", { method: "PUT", body: { current: given.get("current"), password: given.get("password") } });
      form.reset();
      toast("Your password is changed; other logins of yours have ended");
    } catch (failure) {
      setError(failure.message);
    }
    return undefined;
  };
  return html`<form class="form two" onSubmit=${submit}>
    <label class="field"><span>Current password</span><input name="current" type="password" autocomplete="current-password" required /></label>
    <label class="field"><span>New password</span><input name="password" type="password" autocomplete="new-password" minlength="10" required /><small>Ten characters or more</small></label>
    <label class="field"><span>New password again</span><input name="again" type="password" autocomplete="new-password" required /></label>
    ${error && html`<div role="alert"><${Notice} kind="bad">${error}<//></div>`}
    <div class="actions"><button class="button primary">Change the password</button></div>
  </form>`;
}
