// A page that nobody sees asks for nothing, and one whose server is gone says so.
document.addEventListener("htmx:before:request", (event) => {
  if (document.hidden && event.detail.ctx.sourceElement.id === "live") event.preventDefault();
});
document.addEventListener("htmx:error", () => document.body.classList.add("gone"));
document.addEventListener("htmx:after:request", () => document.body.classList.remove("gone"));
