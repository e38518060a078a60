// One run of the page: a source of audio, a session that recognizes it, and the clock between the two.

import { decodeFile, openMicrophone, sendSamples } from "./capture.js";
import { TARGET_RATE } from "./audio.js";
import { Fault } from "./fault.js";
import { PROTOCOLS } from "./protocols.js";

export class Run {
  /**
   * `hooks`: `phase(name)` with connecting, listening, sending, finishing, done or failed, `packet(samples)`,
   * `partial({ text, begin })`, `final(sentence)`, `hotwords(report)`, `failed(fault)`.
   */
  constructor(options, hooks) {
    this.options = options;
    this.hooks = hooks;
    this.protocol = PROTOCOLS[options.protocol];
    this.samplesSent = 0;
    this.firstTextMs = null;
    this.firstTextSince = null;
    this.finalMs = null;
    this.abortion = new AbortController();
  }

  /** How much audio has been sent, in milliseconds. */
  get heardMs() {
    return (this.samplesSent / TARGET_RATE) * 1000;
  }

  async start() {
    this.hooks.phase("connecting");
    try {
      if (this.options.source === "microphone") await this.startMicrophone();
      else await this.startFile();
    } catch (error) {
      this.fail(error instanceof Fault ? error : new Fault("unexpected", { reason: String(error) }));
    }
  }

  async startMicrophone() {
    const microphone = await openMicrophone({
      deviceId: this.options.deviceId,
      processed: this.options.processed,
      packetSamples: this.protocol.packetSamples(this.options),
      onPacket: (packet) => this.packet(packet),
      onLost: () => this.stop(),
    });
    this.microphone = microphone;
    if (this.abortion.signal.aborted) {
      await microphone.stop();
      return;
    }
    this.connect(() => this.hooks.phase("listening"));
  }

  async startFile() {
    const { file, realTime } = this.options;
    if (!file) throw new Fault("noFile");
    this.connect(() => {});
    const samples = await decodeFile(file);
    if (!samples.length) throw new Fault("fileEmpty", { name: file.name });
    await this.session.drained(this.abortion.signal);
    if (this.over) return;
    this.hooks.phase("sending");
    this.begun = performance.now();
    await sendSamples(samples, {
      packetSamples: this.protocol.packetSamples(this.options),
      realTime,
      session: this.session,
      onPacket: (packet) => this.packet(packet),
      signal: this.abortion.signal,
    });
    await this.end();
  }

  connect(onStarted) {
    const name = this.options.source === "file" ? this.options.file.name : "microphone";
    this.session = new this.protocol.Session({ ...this.options, name }, {
      onStarted,
      onPartial: (partial) => this.partial(partial),
      onFinal: (sentence) => this.final(sentence),
      onHotwords: (report) => this.hooks.hotwords(report),
      onFinished: () => this.finish(),
      onFailed: (fault) => this.fail(fault),
    });
    for (const packet of this.early ?? []) this.session.send(packet);
    this.early = null;
  }

  packet(packet) {
    if (this.over) return;
    this.begun ??= performance.now() - (packet.length / TARGET_RATE) * 1000;
    this.samplesSent += packet.length;
    // Level and clock read the packet before the socket takes it.
    this.hooks.packet(packet);
    if (this.session) this.session.send(packet);
    else (this.early ??= []).push(packet);
  }

  partial({ text, begin }) {
    this.measure(text, begin);
    this.hooks.partial({ text, begin });
  }

  final(sentence) {
    this.measure(sentence.text, null);
    this.hooks.final(sentence);
  }

  /** The first text is measured from where its speech begins, if the server says where that is. */
  measure(text, begin) {
    if (!text || this.firstTextMs !== null) return;
    const paced = this.options.source === "microphone" || this.options.realTime;
    const known = paced && begin !== null;
    this.firstTextMs = Math.max(0, performance.now() - this.begun - (known ? begin : 0));
    this.firstTextSince = known ? "speech" : "audio";
  }

  /** Ends the audio and waits for the last result; a second call waits no longer. */
  async stop() {
    if (this.over) return;
    if (this.endedAt !== undefined || !this.session?.listening) this.cancel();
    else if (this.microphone) await this.end();
    else this.abortion.abort();
  }

  async end() {
    if (this.over || this.ending) return;
    this.ending = true;
    this.hooks.phase("finishing");
    await this.releaseMicrophone();
    if (this.over) return;
    this.session.end();
    this.endedAt = performance.now();
  }

  async releaseMicrophone() {
    const { microphone } = this;
    this.microphone = null;
    await microphone?.stop();
  }

  finish() {
    const { heardAt } = this.session;
    if (this.endedAt !== undefined) this.finalMs = Math.max(0, heardAt - this.endedAt);
    this.close("done");
  }

  cancel() {
    this.session?.abort();
    this.close("cancelled");
  }

  fail(fault) {
    if (this.over) return;
    this.session?.abort();
    this.close("failed");
    this.hooks.failed(fault);
  }

  close(phase) {
    if (this.over) return;
    this.over = true;
    this.abortion.abort();
    this.releaseMicrophone();
    this.hooks.phase(phase);
  }
}
