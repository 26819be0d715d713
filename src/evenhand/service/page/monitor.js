// Keeps the page up to date: every minute its content is exchanged for the latest, unless the reader is in the middle of something.
"use strict";
(function () {
  const live = document.getElementById("live");
  if (!live) return;
  function begin() {
    document.querySelectorAll(".live").forEach(function (label) { label.hidden = false; });
  }
  function busy() {
    const at = document.activeElement;
    const typed = [...document.querySelectorAll("main form.stack input")].some(function (input) {
      return input.value !== input.defaultValue;
    });
    return typed || document.hidden || Boolean(at && at.closest("main form.stack, main a, details"))
      || Boolean(document.querySelector("details.card[open]")) || String(document.getSelection()) !== "";
  }
  async function refresh() {
    const switched = document.getElementById("live");
    if (!switched || !switched.checked || busy()) return;
    const status = document.getElementById("status");
    try {
      const answer = await fetch(location.href, {credentials: "same-origin"});
      if (!answer.ok) throw new Error(String(answer.status));
      const found = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = found.querySelector("main");
      if (!fresh) throw new Error("no page");
      document.querySelector("main").replaceWith(document.adoptNode(fresh));
      document.title = found.title;
      begin();
    } catch (error) {
      if (status) status.textContent = "not up to date: the service did not answer (" + error.message + ")";
    }
  }
  begin();
  setInterval(refresh, 60000);
})();
