// The form: what it says, whether that makes sense, and remembering it for the next visit.

import { Fault } from "./fault.js";
import { microphoneAllowed, microphones } from "./capture.js";
import { packetSamples } from "./run.js";
import { socketUrl } from "./session.js";
import { TARGET_RATE } from "./audio.js";

const REMEMBERED = ["processed", "fast", "chunk-size", "chunk-interval", "address"];
const STORE = "asr-serve.live";
const FRAME_MS = 60;
const MAX_FRAMES = 100;

const byId = (id) => document.getElementById(id);

/** The recognizer beside this page, wherever a proxy has put both. */
export function ownAddress() {
  const url = new URL("funasr", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.search = "";
  return url.href;
}

/** Reads from the browser's store; a browser that keeps nothing is as good as an empty one. */
export function remembered() {
  try {
    return JSON.parse(localStorage.getItem(STORE)) ?? {};
  } catch {
    return {};
  }
}

export function remember(values) {
  try {
    localStorage.setItem(STORE, JSON.stringify({ ...remembered(), ...values }));
  } catch {
    return;
  }
}

export class Settings {
  constructor(texts) {
    this.texts = texts;
    this.form = byId("settings");
    this.file = null;
    this.restore();
    this.form.addEventListener("submit", (event) => event.preventDefault());
    this.form.addEventListener("input", () => this.changed());
    byId("file").addEventListener("change", ({ target }) => this.choose(target.files[0]));
    byId("address-reset").addEventListener("click", () => {
      byId("address").value = ownAddress();
      this.changed();
      byId("address").focus();
    });
    this.acceptDrops();
    this.show();
    this.listDevices();
  }

  restore() {
    const known = { address: ownAddress(), ...remembered().form };
    for (const id of REMEMBERED) {
      const field = byId(id);
      if (known[id] === undefined) continue;
      if (field.type === "checkbox") field.checked = known[id];
      else field.value = known[id];
    }
    const token = new URLSearchParams(location.search).get("token");
    if (token) byId("token").value = token;
    for (const name of ["mode", "source"]) {
      if (known[name]) this.form.elements[name].value = known[name];
    }
    if (!microphoneAllowed()) this.form.elements.source.value = "file";
  }

  changed() {
    const form = { mode: this.form.elements.mode.value, source: this.form.elements.source.value };
    for (const id of REMEMBERED) {
      const field = byId(id);
      form[id] = field.type === "checkbox" ? field.checked : field.value;
    }
    // An address that is only the default must go on following the page.
    if (form.address === ownAddress()) delete form.address;
    remember({ form });
    this.show();
  }

  /** What depends on the choices made. */
  show() {
    const microphone = this.form.elements.source.value === "microphone";
    byId("microphone-options").hidden = !microphone;
    byId("file-options").hidden = microphone;
    const offline = this.form.elements.mode.value === "offline";
    byId("fast").disabled = offline;
    byId("fast-note").dataset.text = offline ? "fastOffline" : "fastNote";
    byId("fast-note").textContent = this.texts.get(byId("fast-note").dataset.text);
    byId("address-reset").hidden = byId("address").value === ownAddress();
    byId("file-name").textContent = this.file ? this.file.name : this.texts.get("fileChoose");
    this.showChunks();
  }

  showChunks() {
    const valid = { "chunk-size": true, "chunk-interval": true };
    let note = "";
    try {
      const options = { chunkSize: this.chunkSize(), chunkInterval: this.chunkInterval() };
      const packet = Math.round((packetSamples(options) / TARGET_RATE) * 1000);
      note = this.texts.get("chunkNote", { chunk: options.chunkSize[1] * FRAME_MS, packet });
    } catch (fault) {
      note = this.texts.get(`fault.${fault.key}`);
      valid[fault.key === "badChunk" ? "chunk-size" : "chunk-interval"] = false;
    }
    for (const [id, right] of Object.entries(valid)) byId(id).setAttribute("aria-invalid", !right);
    byId("chunk-note").textContent = note;
  }

  chunkSize() {
    const parts = byId("chunk-size").value.replace(/[[\]]/g, "").split(/[,，\s]+/).filter(Boolean).map(Number);
    const right = parts.length === 3 && parts.every((part) => Number.isInteger(part) && part >= 0 && part <= MAX_FRAMES);
    if (!right || parts[1] === 0) throw new Fault("badChunk");
    return parts;
  }

  chunkInterval() {
    const value = Number(byId("chunk-interval").value);
    if (!Number.isInteger(value) || value < 1 || value > 100) throw new Fault("badInterval");
    return value;
  }

  /** What a run needs to know. Throws a Fault for what cannot be used. */
  read() {
    const options = {
      source: this.form.elements.source.value,
      mode: this.form.elements.mode.value,
      deviceId: byId("device").value,
      processed: byId("processed").checked,
      file: this.file,
      realTime: !(byId("fast").checked || this.form.elements.mode.value === "offline"),
      chunkSize: this.chunkSize(),
      chunkInterval: this.chunkInterval(),
      address: byId("address").value.trim(),
      token: byId("token").value.trim(),
    };
    socketUrl(options.address, options.token);
    return options;
  }

  choose(file) {
    if (!file) return;
    this.file = file;
    this.show();
  }

  acceptDrops() {
    const drop = byId("drop");
    const over = (inside) => drop.classList.toggle("over", inside);
    for (const type of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(type, (event) => {
        if (!event.dataTransfer?.types.includes("Files")) return;
        event.preventDefault();
        over(type === "dragover");
        if (type !== "drop" || byId("file").matches(":disabled")) return;
        this.form.elements.source.value = "file";
        this.choose(event.dataTransfer.files[0]);
      });
    }
  }

  async listDevices() {
    const select = byId("device");
    const chosen = select.value;
    const options = (await microphones()).filter(({ deviceId }) => deviceId !== "default");
    select.replaceChildren(select.options[0], ...options.map(({ deviceId, label }) => new Option(label, deviceId)));
    select.value = options.some(({ deviceId }) => deviceId === chosen) ? chosen : "";
  }
}
