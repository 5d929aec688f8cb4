// Which page an address is.
import { own } from "../format.js";
import { html } from "../html.js";
import { Empty } from "../parts/states.js";
import { to } from "../router.js";
import { Account } from "./account.js";
import { InstallationAudit, System, Users } from "./admin.js";
import { Clients, ClientPage } from "./clients.js";
import { Compare } from "./compare.js";
import { Events } from "./events.js";
import { Join } from "./join.js";
import { Model, Models } from "./models.js";
import { Network } from "./network.js";
import { NewSession } from "./new-session.js";
import { Overview } from "./overview.js";
import { PackagePage, Packages } from "./packages.js";
import { Audit, Members, NewProject, Settings, Tokens } from "./projects.js";
import { Session } from "./session.js";
import { Sessions } from "./sessions.js";

const Lost = () => html`<${Empty} level=${1} icon="search" title="There is no such page" actions=${html`<a class="button" href=${to()}>Go to the overview</a>`}>The address may be misspelt, or what it named is gone.<//>`;
const Closed = () => html`<${Empty} level=${1} icon="lock" title="You know no such project" actions=${html`<a class="button" href=${to()}>Go to your own</a>`}>There is none of this name, or you are not a member of it: ask its owner.<//>`;

const OF_PROJECT = {
  audit: [Audit], clients: [Clients, ClientPage], events: [Events], members: [Members], models: [Models, Model], network: [Network],
  packages: [Packages, PackagePage], sessions: [Sessions, Session], settings: [Settings], tokens: [Tokens],
};
const NAMED = { "clients/join": Join, "projects/new": NewProject, "sessions/compare": Compare, "sessions/new": NewSession };
const OF_INSTALLATION = { audit: InstallationAudit, system: System, users: Users };

/** {Page, nav}: what to show, and which place of the menu it belongs to. known: whether the caller knows the project. */
export function pageOf({ parts }, known) {
  const [first, second, third, fourth, ...more] = parts;
  if (first === "p" && second && more.length === 0) {
    if (!known) return { Page: Closed, nav: "" };
    if (!third) return { Page: Overview, nav: "p/" };
    const nav = `p/${third}`;
    const Page = own(NAMED, `${third}/${fourth}`) ?? own(OF_PROJECT, third)?.[fourth ? 1 : 0];
    return { Page: Page ?? Lost, nav };
  }
  if (first === "admin" && !third) return { Page: own(OF_INSTALLATION, second) ?? Lost, nav: `admin/${second}` };
  if (first === "account" && !second) return { Page: Account, nav: "account" };
  if (first === "projects" && second === "new" && !third) return { Page: NewProject, nav: "" };
  if (parts.length === 0) return { Page: () => html`<h1 class="visually-hidden">Studio</h1>`, nav: "" };
  return { Page: Lost, nav: "" };
}
