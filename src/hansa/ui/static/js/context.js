import { createContext, useContext } from "./html.js";

export const AppContext = createContext(null);

/** {me, project, can(permission), reload}: permissions are those of the project that is shown. */
export const useApp = () => useContext(AppContext);
