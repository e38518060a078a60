// Draws the transcript, the readouts and the messages.

import { Hotwords } from "./hotwords.js";

/** Colors of speakers that the style sheet has. */
const VOICES = 8;

const byId = (id) => document.getElementById(id);

/** `1:02.3`, with hours where there are any. Milliseconds in. */
export function shortClock(milliseconds) {
  const tenths = Math.floor(milliseconds / 100);
  const [hours, minutes, seconds] = [tenths / 36000, (tenths / 600) % 60, (tenths / 10) % 60].map(Math.floor);
  const tail = `${String(seconds).padStart(2, "0")}.${tenths % 10}`;
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${tail}` : `${minutes}:${tail}`;
}

export function latency(milliseconds) {
  if (milliseconds === null) return "–";
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(2)} s`;
}

export class View {
  constructor(texts) {
    this.texts = texts;
    this.phase = "idle";
    this.note = null;
    this.hinted = null;
    this.heardWords = new Hotwords();
  }

  /** Everything again, in the language that is current now. */
  translate(run) {
    this.texts.apply(document);
    for (const button of document.querySelectorAll("[data-language]")) {
      button.setAttribute("aria-pressed", button.dataset.language === this.texts.language);
    }
    for (const time of document.querySelectorAll("#sentences .estimated")) time.title = this.texts.get("estimated");
    this.showPhase(this.phase);
    this.showNotice(this.note);
    this.showHint(this.hinted);
    this.showHotwords(this.heardWords);
    this.showReadouts(run);
    this.emptyText(this.phase === "done" ? "nothingHeard" : "empty");
  }

  showPhase(phase) {
    this.phase = phase;
    const status = byId("status");
    status.dataset.phase = phase;
    status.textContent = this.texts.get(phase);
    const finishing = ["connecting", "finishing"].includes(phase);
    const label = finishing ? "cancel" : this.running ? "stop" : "start";
    byId("start").dataset.action = label;
    byId("start-text").textContent = this.texts.get(label);
    for (const group of document.querySelectorAll("#settings fieldset")) group.disabled = this.running;
    document.documentElement.dataset.running = this.running;
  }

  get running() {
    return ["connecting", "listening", "sending", "finishing"].includes(this.phase);
  }

  /** A fault, which stays until the next start; `null` takes it away. */
  showNotice(fault) {
    this.note = fault;
    const notice = byId("notice");
    notice.hidden = !fault;
    notice.dataset.fault = fault?.key ?? "";
    notice.textContent = fault ? this.texts.get(`fault.${fault.key}`, fault.values) : "";
  }

  showHint(hint) {
    this.hinted = hint;
    byId("hint").hidden = !hint;
    byId("hint").textContent = hint ? this.texts.get(hint.key, hint.values) : "";
  }

  /** What became of the hotwords: a report, which may still grow. */
  showHotwords(report) {
    this.heardWords = report;
    const text = report.text(this.texts);
    byId("hotwords-told").hidden = !text;
    byId("hotwords-told").textContent = text;
  }

  showReadouts(run) {
    const show = (id, text) => {
      if (byId(id).textContent !== text) byId(id).textContent = text;
    };
    const sent = run ? run.heardMs : 0;
    show("elapsed", shortClock(sent));
    show("audio-sent", run ? `${(sent / 1000).toFixed(1)} s` : "–");
    show("first-text", latency(run?.firstTextMs ?? null));
    show("final-delay", latency(run?.over ? run.finalMs : null));
    show("sentence-count", run ? String(byId("sentences").childElementCount) : "–");
    const since = run?.firstTextSince === "audio" ? "firstTextAudio" : "firstTextSpeech";
    show("first-text-note", this.texts.get(since));
  }

  showTranscript(transcript) {
    const list = byId("sentences");
    const sheet = byId("sheet");
    const followed = sheet.scrollHeight - sheet.scrollTop - sheet.clientHeight < 40;
    while (list.childElementCount > transcript.sentences.length) list.lastElementChild.remove();
    for (const sentence of transcript.sentences.slice(list.childElementCount)) list.append(this.row(sentence));
    this.showSpeakers(transcript, list);
    byId("partial").textContent = transcript.partial;
    byId("partial").hidden = !transcript.partial;
    const empty = !transcript.sentences.length && !transcript.partial;
    byId("empty").hidden = !empty;
    for (const id of ["copy", "clear"]) byId(id).disabled = empty;
    byId("srt").disabled = !transcript.sentences.length;
    if (followed) sheet.scrollTop = sheet.scrollHeight;
  }

  /** Who spoke, on all rows: a later sentence may have told more of those before it. */
  showSpeakers({ sentences, speakers }, list) {
    let before = null;
    for (const [i, { speaker, unsure }] of sentences.entries()) {
      if (speaker === null && before === null) continue;
      const row = list.children[i];
      const label = row.querySelector(".speaker");
      const name = speaker === null ? "" : speakers.label(speaker, this.texts);
      if (label.textContent !== name) label.textContent = name;
      label.hidden = !name || speaker === before;
      row.dataset.voice = speaker === null ? "" : speakers.order(speaker) % VOICES;
      row.classList.toggle("unsure", unsure);
      row.querySelector(".text").title = unsure ? this.texts.get("unsure") : "";
      before = speaker;
    }
  }

  row({ text, begin, end, estimated }) {
    const row = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = `${shortClock(begin)} – ${shortClock(end)}`;
    time.dataset.begin = Math.round(begin);
    time.dataset.end = Math.round(end);
    time.dateTime = `PT${(begin / 1000).toFixed(3)}S`;
    if (estimated) {
      time.className = "estimated";
      time.textContent = `~ ${time.textContent}`;
      time.title = this.texts.get("estimated");
    }
    const words = document.createElement("span");
    words.className = "text";
    words.textContent = text;
    const speaker = document.createElement("b");
    speaker.className = "speaker";
    speaker.hidden = true;
    row.append(time, speaker, words);
    return row;
  }

  emptyText(key) {
    byId("empty").dataset.text = key;
    byId("empty").textContent = this.texts.get(key);
  }
}
