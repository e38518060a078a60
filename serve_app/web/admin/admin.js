// Asks /admin/state every two seconds and shows what it says.

import { firstLanguage, languages, remember } from "./words.js";

const EVERY_MS = 2000;

const find = (id) => document.getElementById(id);
let language = firstLanguage();
let state = null;
let timer = 0;
// Kept by nothing but this page.
let key = "";

const words = () => languages[language];
const digits = (value, most = 1) => value.toLocaleString(language, { maximumFractionDigits: most });

function element(name, text = "", className = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = className;
  return made;
}

function speak() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = words().documentTitle;
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words()[node.dataset.text];
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", words()[node.dataset.label]);
  }
  for (const button of document.querySelectorAll("[data-language]")) {
    button.setAttribute("aria-pressed", String(button.dataset.language === language));
  }
  show();
}

function show() {
  if (!state) return;
  find("version").textContent = state.version;
  find("when").textContent = words().updated(new Date(state.time * 1000).toLocaleTimeString(language));
  find("figures").replaceChildren(...figures());
  find("rows").replaceChildren(...state.deployments.flatMap(rows));
}

function figures() {
  const { traffic, jobs } = state;
  const shown = [];
  const add = (label, value) => {
    const box = document.createElement("div");
    box.append(element("dt", words()[label]), element("dd", value));
    shown.push(box);
  };
  if (traffic) {
    add("liveSessions", `${digits(traffic.live_sessions)} / ${digits(traffic.max_live_sessions)}`);
    add("files", `${digits(traffic.files)} / ${digits(traffic.max_concurrent_files)}`);
    add("ingress", digits(traffic.ingress_replicas));
  }
  if (jobs) {
    add("jobsQueued", digits(jobs.queued));
    add("jobsRunning", digits(jobs.running));
  }
  return shown;
}

const looks = { HEALTHY: "good", UNHEALTHY: "bad", DEPLOY_FAILED: "bad" };

function rows(deployment) {
  const { load } = deployment;
  const row = document.createElement("tr");
  const name = element("th", deployment.name);
  name.scope = "row";
  row.append(name, element("td", deployment.status, looks[deployment.status] ?? ""));
  row.append(element("td", `${deployment.running} / ${deployment.target}`));
  if (load) {
    row.append(
      element("td", words().items(digits(load.waiting_items), Math.round(load.waiting_audio_seconds))),
      element("td", words().seconds(digits(load.oldest_wait_seconds))),
      element("td", words().items(digits(load.running_items), Math.round(load.running_audio_seconds))),
      busy(load.busy),
      element("td", words().seconds(digits(load.lag_seconds, 2))),
      element("td", load.audio_per_busy_second ? words().times(digits(load.audio_per_busy_second, 0)) : ""),
    );
  } else {
    for (let cell = 0; cell < 6; cell += 1) row.append(element("td"));
  }
  const replicas = element("td", deployment.replicas.map(process).join("\n"), "processes");
  replicas.colSpan = 9;
  const below = document.createElement("tr");
  if (deployment.message) replicas.prepend(element("span", `${deployment.message}\n`, looks[deployment.status] ?? ""));
  below.append(replicas);
  return [row, below];
}

function busy(share) {
  const cell = element("td");
  const meter = document.createElement("meter");
  meter.value = share;
  meter.high = 0.9;
  cell.append(meter, ` ${digits(share * 100, 0)} %`);
  return cell;
}

function process(replica) {
  const since = words().seconds(digits(replica.seconds, 0));
  return words().process(replica.node ?? "", replica.pid ?? "", replica.state, since);
}

function tell(message) {
  find("notice").textContent = message;
  find("notice").hidden = !message;
}

async function ask() {
  clearTimeout(timer);
  try {
    const headers = key ? { authorization: `Bearer ${key}` } : {};
    const answer = await fetch("admin/state", { headers, cache: "no-store" });
    const body = await answer.json();
    if (answer.ok) {
      state = body;
      tell("");
      find("door").hidden = true;
      show();
    } else {
      tell(body.error?.message ?? `${answer.status}`);
      find("door").hidden = answer.status !== 401;
      if (answer.status === 401) return;
    }
  } catch {
    tell(words().unreachable);
  }
  timer = setTimeout(ask, EVERY_MS);
}

for (const button of document.querySelectorAll("[data-language]")) {
  button.addEventListener("click", () => {
    language = button.dataset.language;
    remember(language);
    speak();
  });
}
find("door").addEventListener("submit", (event) => {
  event.preventDefault();
  key = find("key").value.trim();
  ask();
});
speak();
ask();
