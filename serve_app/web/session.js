// What all protocols do alike: one recognition over one WebSocket, from the connection to its end.

import { Fault } from "./fault.js";
import { pause } from "./capture.js";

const START_TIMEOUT_MS = 10_000;
const HIGH_WATER_BYTES = 256 * 1024;

/** The address as a URL with the token in it. Throws a Fault for what no browser could open. */
export function socketUrl(address, token) {
  let url;
  try {
    url = new URL(address);
  } catch {
    throw new Fault("badAddress", { address });
  }
  if (url.protocol === "http:") url.protocol = "ws:";
  if (url.protocol === "https:") url.protocol = "wss:";
  if (!["ws:", "wss:"].includes(url.protocol)) throw new Fault("badAddress", { address });
  const local = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (location.protocol === "https:" && url.protocol === "ws:" && !local) {
    throw new Fault("mixedContent", { address });
  }
  if (token) url.searchParams.set("token", token);
  url.hash = "";
  return url;
}

/** 32 hexadecimal digits. `crypto.randomUUID` is missing on pages that came over plain http. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/**
 * The part of a protocol that is the same for all. A protocol says in its own class
 * `hello()`: messages to send once the connection is there (it calls `started()` when audio may follow),
 * `take(message)`: what a message of the server means, `audio(samples)`: how a packet is sent, and
 * `farewell()`: messages that end the audio.
 */
export class Session {
  /**
   * Callbacks: `onStarted()` when the server listens, `onPartial({ text, begin })` with all of a sentence so
   * far, `onFinal({ text, begin, end, words, speaker, changes })`, then once either `onFinished()` or
   * `onFailed(fault)`. Times are milliseconds of audio, `null` where the server gives none; words have `text`,
   * `begin` and `end`, and there are none where they are not known. For `speaker` and `changes` see
   * `speakers.js`; they may be left out. `onHotwords(report)`, which need not be there, gets what `hotwords.js`
   * takes.
   */
  constructor(options, callbacks) {
    this.options = options;
    this.callbacks = callbacks;
    const { url, subprotocols } = this.target(options);
    this.address = `${url.protocol}//${url.host}${url.pathname}`;
    this.waiting = [];
    this.opened = false;
    this.listening = false;
    this.ended = false;
    this.closed = false;
    /** When the server last said something, on the clock of `performance`. */
    this.heardAt = null;
    this.socket = new WebSocket(url, subprotocols);
    this.socket.binaryType = "arraybuffer";
    this.socket.onopen = () => this.open();
    this.socket.onmessage = ({ data }) => this.receive(data);
    this.socket.onclose = (event) => this.lost(event);
    this.timer = setTimeout(() => this.fail(this.unanswered()), START_TIMEOUT_MS);
  }

  /** Where to connect, with the key where this protocol has it. */
  target({ address, token }) {
    return { url: socketUrl(address, token), subprotocols: [] };
  }

  audio(samples) {
    return samples;
  }

  /** Sends 16 kHz PCM (Int16Array), as soon as the server listens. */
  send(samples) {
    this.put(this.audio(samples));
  }

  /** Says that no more audio comes. */
  end() {
    this.ended = true;
    this.put(...this.farewell());
  }

  /** Leaves without waiting for anything. */
  abort() {
    this.closed = true;
    clearTimeout(this.timer);
    this.socket.close(1000);
  }

  /** Resolves when little enough waits in the browser for the network to take it. */
  async drained(signal) {
    const busy = () => !this.listening || this.socket.bufferedAmount > HIGH_WATER_BYTES;
    while (!signal.aborted && !this.closed && busy()) await pause(10);
  }

  put(...messages) {
    if (this.closed) return;
    if (this.listening) this.sendNow(messages);
    else this.waiting.push(...messages);
  }

  sendNow(messages) {
    for (const message of messages) {
      const plain = typeof message === "string" || ArrayBuffer.isView(message);
      this.socket.send(plain ? message : JSON.stringify(message));
    }
  }

  open() {
    this.opened = true;
    this.sendNow(this.hello());
  }

  /** The server takes audio from now on. */
  started() {
    if (this.listening || this.closed) return;
    clearTimeout(this.timer);
    this.listening = true;
    this.sendNow(this.waiting.splice(0));
    this.callbacks.onStarted();
  }

  receive(data) {
    if (this.closed) return;
    let message = null;
    try {
      message = JSON.parse(data);
    } catch {
      // Told below, as every other message that no object is.
    }
    if (typeof message !== "object" || message === null) {
      this.fail(this.notUnderstood());
      return;
    }
    this.heardAt = performance.now();
    this.take(message);
  }

  lost({ code, reason }) {
    if (!this.opened) this.fail(this.unanswered());
    else this.fail(new Fault(reason ? "closedWithReason" : "connectionLost", { code, reason }));
  }

  unanswered() {
    if (this.opened) return this.notUnderstood();
    return new Fault(this.socket.url.startsWith("wss:") ? "unreachableSecure" : "unreachable", {
      address: this.address,
    });
  }

  notUnderstood() {
    return new Fault("notUnderstood", { address: this.address, protocol: this.name });
  }

  /** A message that this protocol does not have: later ones may be new, but nothing begins with one. */
  strange() {
    if (!this.listening) this.fail(this.notUnderstood());
  }

  /** What became of the hotwords, if the server says so. */
  tellHotwords(report) {
    if (report) this.callbacks.onHotwords?.(report);
  }

  /** The server told what is wrong. */
  refused(error) {
    const reason = typeof error === "string" ? error : error?.message ?? JSON.stringify(error);
    this.fail(new Fault("serverError", { reason }));
  }

  finish() {
    if (this.closed) return;
    this.abort();
    this.callbacks.onFinished();
  }

  fail(fault) {
    if (this.closed) return;
    this.abort();
    this.callbacks.onFailed(fault);
  }
}
