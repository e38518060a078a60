// The level meter: a strip of bars that moves with the audio, newest at the right, on a decibel scale.

import { TARGET_RATE } from "./audio.js";

const FLOOR_DB = -60;
const BAR_PX = 3;
const GAP_PX = 2;
const BAR_MS = 60;

/** Root mean square and peak of a packet, as shares of full scale. */
export function levels(samples) {
  let sum = 0;
  let peak = 0;
  for (const sample of samples) {
    sum += sample * sample;
    peak = Math.max(peak, Math.abs(sample));
  }
  return { rms: Math.sqrt(sum / Math.max(1, samples.length)) / 32768, peak: peak / 32768 };
}

export function decibels(share) {
  return share > 0 ? Math.max(FLOOR_DB, 20 * Math.log10(share)) : FLOOR_DB;
}

export class Meter {
  constructor(canvas, element) {
    this.canvas = canvas;
    this.element = element;
    this.bars = [];
    this.rest = [];
    new ResizeObserver(() => this.draw()).observe(canvas);
    this.reset();
  }

  reset() {
    this.bars = [];
    this.rest = [];
    this.announce(FLOOR_DB);
    this.draw();
  }

  push(packet) {
    const size = (BAR_MS * TARGET_RATE) / 1000;
    for (const sample of packet) {
      this.rest.push(sample);
      if (this.rest.length === size) this.bars.push(levels(this.rest.splice(0)));
    }
    this.bars.splice(0, this.bars.length - 1000);
    if (this.bars.length) this.announce(decibels(this.bars.at(-1).rms));
    if (!this.scheduled) {
      this.scheduled = true;
      requestAnimationFrame(() => this.draw());
    }
  }

  announce(level) {
    this.element.setAttribute("aria-valuenow", Math.round(level));
    this.element.setAttribute("aria-valuetext", `${Math.round(level)} dBFS`);
  }

  draw() {
    this.scheduled = false;
    const scale = window.devicePixelRatio || 1;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.canvas.width = width * scale;
    this.canvas.height = height * scale;
    const pen = this.canvas.getContext("2d");
    pen.scale(scale, scale);
    const style = getComputedStyle(this.canvas);
    const color = (name) => style.getPropertyValue(name).trim();
    const columns = Math.ceil(width / (BAR_PX + GAP_PX));
    for (let column = 0; column < columns; column++) {
      const bar = this.bars[this.bars.length - 1 - column];
      const share = bar ? 1 - decibels(bar.rms) / FLOOR_DB : 0;
      const tall = Math.max(BAR_PX, share * height);
      pen.fillStyle = color(bar ? (bar.peak > 0.99 ? "--alarm" : "--accent") : "--line");
      pen.beginPath();
      const left = width - (column + 1) * (BAR_PX + GAP_PX);
      pen.roundRect(left, (height - tall) / 2, BAR_PX, tall, BAR_PX / 2);
      pen.fill();
    }
  }
}
