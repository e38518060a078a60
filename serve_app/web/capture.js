// Where the audio comes from: the microphone, or a file that the browser can decode.

import { Fault } from "./fault.js";
import { mixdown, TARGET_RATE, toInt16 } from "./audio.js";

const WORKLET = new URL("audio.js", import.meta.url);

/** A context that the system has suspended does not answer. */
const FLUSH_TIMEOUT_MS = 1_000;

const MICROPHONE_FAULTS = {
  NotAllowedError: "microphoneDenied",
  SecurityError: "microphoneDenied",
  NotFoundError: "microphoneMissing",
  OverconstrainedError: "microphoneMissing",
  NotReadableError: "microphoneBusy",
  AbortError: "microphoneBusy",
};

/** Whether this page may ask for the microphone at all: browsers want https or localhost for it. */
export function microphoneAllowed() {
  return window.isSecureContext && Boolean(navigator.mediaDevices?.getUserMedia);
}

/** Microphones by id; their names are known only after the permission was given once. */
export async function microphones() {
  if (!microphoneAllowed()) return [];
  const devices = await navigator.mediaDevices.enumerateDevices();
  return devices.filter((device) => device.kind === "audioinput" && device.deviceId && device.label);
}

/**
 * Opens the microphone; `onPacket(Int16Array)` gets 16 kHz mono packets until the returned `stop()` resolves.
 * `onLost()` is called when the device goes away.
 */
export async function openMicrophone({ deviceId, processed, packetSamples, onPacket, onLost }) {
  if (!microphoneAllowed()) throw new Fault("insecureContext", { origin: location.origin });
  const constraints = {
    channelCount: 1,
    echoCancellation: processed,
    noiseSuppression: processed,
    autoGainControl: processed,
    ...(deviceId ? { deviceId: { exact: deviceId } } : {}),
  };
  // Everything is prepared before the microphone opens, so that its first sound is not lost.
  const prepared = await prepare({ sampleRate: TARGET_RATE }).catch(() => null);
  const stream = await navigator.mediaDevices.getUserMedia({ audio: constraints }).catch((error) => {
    prepared?.close();
    throw new Fault(MICROPHONE_FAULTS[error.name] ?? "microphoneFailed", { reason: error.message });
  });
  let graph;
  try {
    graph = await listen(prepared, stream, packetSamples);
  } catch (error) {
    release(stream);
    throw new Fault("microphoneFailed", { reason: error.message });
  }
  const { context, source, node } = graph;
  const flushed = new Promise((resolve) => {
    node.port.onmessage = ({ data }) => (data ? onPacket(data) : resolve());
  });
  stream.getAudioTracks()[0].addEventListener("ended", onLost);
  return {
    // Held, so that no browser collects a source that is still in use.
    source,
    async stop() {
      node.port.postMessage("finish");
      await Promise.race([flushed, pause(FLUSH_TIMEOUT_MS)]);
      release(stream);
      await context.close();
    },
  };
}

function release(stream) {
  for (const track of stream.getTracks()) track.stop();
}

async function prepare(options) {
  const context = new AudioContext(options);
  await context.audioWorklet.addModule(WORKLET);
  return context;
}

async function listen(prepared, stream, packetSamples) {
  if (prepared) {
    try {
      return await connect(prepared, stream, packetSamples);
    } catch {
      await prepared.close();
    }
  }
  // Some browsers connect a microphone only to a context of the device's own rate; the worklet converts then.
  return connect(await prepare(), stream, packetSamples);
}

async function connect(context, stream, packetSamples) {
  const source = context.createMediaStreamSource(stream);
  const node = new AudioWorkletNode(context, "pcm-packets", {
    numberOfOutputs: 0,
    processorOptions: { packetSamples },
  });
  source.connect(node);
  await context.resume();
  return { context, source, node };
}

/** A file as 16 kHz mono samples (Int16Array). Throws a Fault where the browser cannot decode it. */
export async function decodeFile(file) {
  const decoder = new OfflineAudioContext(1, 1, TARGET_RATE);
  const audio = await file
    .arrayBuffer()
    .then((bytes) => decoder.decodeAudioData(bytes))
    .catch(() => {
      throw new Fault("fileNotDecoded", { name: file.name });
    });
  const channels = Array.from({ length: audio.numberOfChannels }, (_, i) => audio.getChannelData(i));
  return Int16Array.from(mixdown(channels), toInt16);
}

/**
 * Sends samples packet by packet: at the speed of the recording, or as fast as `session` takes them.
 * Ends early when `signal` is aborted.
 */
export async function sendSamples(samples, { packetSamples, realTime, session, onPacket, signal }) {
  const begun = performance.now();
  for (let at = 0; at < samples.length && !signal.aborted; at += packetSamples) {
    const packet = samples.slice(at, at + packetSamples);
    if (realTime) {
      // A microphone has a packet when its last sample has been heard, not before.
      const due = begun + ((at + packet.length) / TARGET_RATE) * 1000;
      if (due > performance.now()) await pause(due - performance.now());
      if (signal.aborted) return;
    }
    onPacket(packet);
    await session.drained(signal);
  }
}

export function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
