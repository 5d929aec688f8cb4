// Runs before anything is drawn, so that no page flashes in the other theme.
(() => {
  const wanted = localStorage.getItem("hansa.theme");
  const dark = wanted ? wanted === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "dark" : "light";
})();
