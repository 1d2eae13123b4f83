// Runs before the first paint, so that a chosen theme never flashes.
const { theme } = JSON.parse(localStorage.getItem("fromzero.settings") ?? "{}");
if (theme) document.documentElement.dataset.theme = theme;
