"use strict";
// Follows the page's view while somebody can see it: a tab in the background is sent nothing
(() => {
  const live = document.getElementById("live");
  let follows = false;
  const follow = () => {
    if (document.hidden || follows || live === null) return;
    follows = true;
    htmx.trigger(live, "watch");
  };
  document.addEventListener("visibilitychange", follow);
  document.addEventListener("htmx:sse:error", () => document.body.classList.add("away"));
  document.addEventListener("htmx:sse:after:message", () => document.body.classList.remove("away"));
  window.addEventListener("load", follow);
  for (const slider of document.querySelectorAll(".slide input")) {
    slider.addEventListener("input", () => { slider.nextElementSibling.value = `${slider.value} %`; });
    slider.addEventListener("change", () => slider.form.requestSubmit());
    slider.form.addEventListener("formdata", ({formData}) => {
      for (const [name, value] of [...formData]) if (value === "") formData.delete(name);  // the address says what is asked
    });
  }
})();
