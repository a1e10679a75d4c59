// Runs before anything is drawn: a chosen theme must not flash up late. Without a choice, the system's holds.
const theme = localStorage.getItem("mlx-server-nano:theme");
if (theme) document.documentElement.dataset.theme = theme;
