// AudioWorklet module: whatever the microphone delivers becomes packets of 16-bit mono PCM at 16 kHz.

export const TARGET_RATE = 16000;

const ZERO_CROSSINGS = 24;
const PASSBAND = 0.94;

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

/**
 * Streaming rate conversion by a windowed sinc filter, one set of weights for each phase of the ratio.
 * Output sample n lies exactly at input time n * from / to; no delay, and no drift over hours.
 */
export class Resampler {
  constructor(from, to = TARGET_RATE) {
    const common = divisor(from, to);
    this.up = to / common;
    this.down = from / common;
    const cutoff = Math.min(1, to / from) * PASSBAND;
    this.half = Math.ceil(ZERO_CROSSINGS / cutoff);
    this.weights = Array.from({ length: this.up }, (_, phase) => this.phaseWeights(phase / this.up, cutoff));
    this.pending = new Float32Array(this.half - 1);
    this.phase = 0;
  }

  phaseWeights(fraction, cutoff) {
    const weights = new Float32Array(2 * this.half);
    let sum = 0;
    for (let k = 0; k < weights.length; k++) {
      const distance = k - this.half + 1 - fraction;
      const hann = 0.5 + 0.5 * Math.cos((Math.PI * distance) / this.half);
      weights[k] = Math.abs(distance) > this.half ? 0 : sinc(cutoff * distance) * hann;
      sum += weights[k];
    }
    return weights.map((weight) => weight / sum);
  }

  /** Samples in, as many samples out as they determine. */
  process(input) {
    const buffer = new Float32Array(this.pending.length + input.length);
    buffer.set(this.pending);
    buffer.set(input, this.pending.length);
    const output = [];
    const taps = 2 * this.half;
    let start = 0;
    while (start + taps <= buffer.length) {
      const weights = this.weights[this.phase];
      let sum = 0;
      for (let k = 0; k < taps; k++) sum += weights[k] * buffer[start + k];
      output.push(sum);
      const next = this.phase + this.down;
      start += Math.floor(next / this.up);
      this.phase = next % this.up;
    }
    this.pending = buffer.slice(start);
    return Float32Array.from(output);
  }

  /** What is still inside the filter. */
  flush() {
    return this.process(new Float32Array(this.half));
  }
}

/** Mean of all channels; an empty array where nothing is connected. */
export function mixdown(channels) {
  if (channels.length <= 1) return channels[0] ?? new Float32Array(0);
  return channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
}

export function toInt16(sample) {
  return Math.max(-32768, Math.min(32767, Math.round(sample * 32768)));
}

if (typeof registerProcessor === "function") {
  class PcmPackets extends AudioWorkletProcessor {
    constructor({ processorOptions }) {
      super();
      this.resampler = sampleRate === TARGET_RATE ? null : new Resampler(sampleRate);
      this.packet = new Int16Array(processorOptions.packetSamples);
      this.filled = 0;
      this.done = false;
      this.port.onmessage = () => this.finish();
    }

    process([channels]) {
      const mono = mixdown(channels);
      if (mono.length && !this.done) this.collect(this.resampler ? this.resampler.process(mono) : mono);
      return !this.done;
    }

    collect(samples) {
      for (const sample of samples) {
        this.packet[this.filled++] = toInt16(sample);
        if (this.filled === this.packet.length) this.post();
      }
    }

    post() {
      const packet = this.packet.slice(0, this.filled);
      this.filled = 0;
      this.port.postMessage(packet, [packet.buffer]);
    }

    finish() {
      if (this.resampler) this.collect(this.resampler.flush());
      if (this.filled) this.post();
      this.done = true;
      this.port.postMessage(null);
    }
  }
  registerProcessor("pcm-packets", PcmPackets);
}
