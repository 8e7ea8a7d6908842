// The microphone: what is said between start and stop, as one webm/opus (or mp4/aac) blob.

const LONGEST_MS = 15000;
const KINDS = ["audio/webm;codecs=opus", "audio/ogg;codecs=opus", "audio/mp4"];

export class Voice {
  constructor() {
    this.recorder = null;
  }

  get recording() {
    return this.recorder !== null;
  }

  // Starts recording; the promise is kept when it has ended, by stop() or after 15 seconds.
  async record(onStart) {
    if (!navigator.mediaDevices || !window.MediaRecorder) throw new Error("This browser offers the microphone only over https or on localhost.");
    const stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    const mimeType = KINDS.find((kind) => MediaRecorder.isTypeSupported(kind));
    const recorder = new MediaRecorder(stream, mimeType ? { mimeType } : undefined);
    this.recorder = recorder;
    const pieces = [];
    recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
    const ended = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
    recorder.start();
    onStart();
    const timer = setTimeout(() => this.stop(), LONGEST_MS);
    await ended;
    clearTimeout(timer);
    for (const track of stream.getTracks()) track.stop();
    this.recorder = null;
    return new Blob(pieces, { type: recorder.mimeType });
  }

  stop() {
    if (this.recorder && this.recorder.state !== "inactive") this.recorder.stop();
  }
}
