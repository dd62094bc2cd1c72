// Safari plays no video from a data: address, but it does from a blob: address.
const videos = [...document.querySelectorAll("video")];
for (const video of videos) {
  video.addEventListener("error", async () => {
    if (!video.src.startsWith("data:")) return;
    const bytes = Uint8Array.from(atob(video.src.split(",")[1]), (c) => c.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  });
}
// The controls would darken the still picture, so they wait until someone comes near.
for (const video of videos) {
  video.controls = false;
  video.tabIndex = 0;
  for (const event of ["pointerenter", "focus"]) video.addEventListener(event, () => (video.controls = true));
  video.addEventListener("pointerleave", () => (video.controls = false));
}
// Below a video, a line in its curve follows it.
for (const video of videos) {
  const curve = video.closest("li").querySelector(".curve");
  if (!curve) continue;
  const { left, end, perSecond } = curve.dataset;
  const now = curve.querySelector(".now");
  video.addEventListener("timeupdate", () => {
    const x = Math.min(Number(left) + video.currentTime * perSecond, end);
    now.setAttribute("x1", x);
    now.setAttribute("x2", x);
    now.style.visibility = "visible";
  });
}
const button = document.querySelector("button");
if (button) {
  button.hidden = false;
  button.addEventListener("click", () => {
    const play = videos.every((video) => video.paused);
    for (const video of videos) play ? video.play() : video.pause();
    button.textContent = play ? "Pause all" : "Play all";
  });
}
