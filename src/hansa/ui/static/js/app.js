// The Studio: who is signed in, which project is shown, and the page of the address.
import { call, path } from "./api.js";
import { AppContext } from "./context.js";
import { html, render, useCallback, useEffect, useMemo, useState } from "./html.js";
import { Failure } from "./parts/states.js";
import { Shell } from "./parts/shell.js";
import { pageOf } from "./pages/index.js";
import { SignIn } from "./pages/sign-in.js";
import { followLinks, go, to, useRoute } from "./router.js";
import { follow } from "./stream.js";

const SIGNED_IN = "hansa.signed-in"; // a cookie that scripts cannot read says who; this, that there may be one

function Studio() {
  const route = useRoute();
  const [me, setMe] = useState(undefined); // undefined: not known yet; null: nobody
  const [error, setError] = useState(null);
  const [ready, setReady] = useState(null); // the project whose events are followed

  const load = useCallback(async () => {
    setError(null);
    try {
      setMe(await call("/me"));
      localStorage.setItem(SIGNED_IN, "yes");
    } catch (failure) {
      if (failure.status === 401) setMe(null);
      else setError(failure);
    }
  }, []);

  useEffect(() => {
    if (localStorage.getItem(SIGNED_IN) && !location.hash.startsWith("#code=")) load();
    else setMe(null);
    const left = () => {
      localStorage.removeItem(SIGNED_IN);
      setMe(null);
    };
    addEventListener("hansa:signed-out", left);
    return () => removeEventListener("hansa:signed-out", left);
  }, []);

  const projects = me ? Object.keys(me.roles) : [];
  const inProject = route.parts[0] === "p" ? route.parts[1] : null;
  const last = localStorage.getItem("hansa.project");
  const project = inProject ?? (projects.includes(last) ? last : projects[0]) ?? null;

  useEffect(() => {
    if (!me) return;
    if (route.parts.length === 0) go(project ? to("p", project) : to("projects", "new"), { replace: true });
    if (inProject && projects.includes(inProject)) localStorage.setItem("hansa.project", inProject);
  }, [me, route]);

  useEffect(() => {
    if (!me || !project || !projects.includes(project)) {
      setReady(project);
      return undefined;
    }
    let stop = () => {};
    let gone = false;
    call(path`/projects/${project}/events?limit=1&sort=-id`).then(({ cursor }) => {
      if (gone) return;
      stop = follow(project, cursor);
      setReady(project);
    }, (failure) => failure.status !== 401 && setError(failure));
    return () => {
      gone = true;
      stop();
    };
  }, [me?.token_id, project]);

  const context = useMemo(() => ({
    me, project, reload: load,
    can: (what) => Boolean(me?.may?.[project]?.includes(what)),
  }), [me, project, load]);

  if (error) return html`<main><${Failure} error=${error} retry=${load} level=${1} /></main>`;
  if (me === undefined) return null;
  if (me === null) return html`<${SignIn} onDone=${load} />`;
  const known = project === null || projects.includes(project);
  const { Page, nav } = pageOf(route, known);
  if (inProject && ready !== project) return html`<${AppContext.Provider} value=${context}><${Shell} nav=${nav} route=${route}><h1 class="visually-hidden">Loading</h1><//><//>`;
  return html`<${AppContext.Provider} value=${context}>
    <${Shell} nav=${nav} route=${route}><${Page} key=${route.parts.join("/")} route=${route} /><//>
  <//>`;
}

followLinks();
render(html`<${Studio} /><div id="toasts" class="toasts" role="status" aria-live="polite"></div>`, document.getElementById("studio"));
