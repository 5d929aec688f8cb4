// A project's event stream: taken up after a break where it ended, so that nothing is missed and nothing told twice.

const RETRY = 1000; // milliseconds until a stream that was refused is asked for again; doubled up to a quarter of a minute
const LONGEST = 15000;
const GATHER = 200; // milliseconds for which what happens is gathered before a page hears of it
const SILENCE = 45000; // milliseconds without a word after which a stream is lost; the server says something every 15 seconds
const LOOK = 5000; // milliseconds between two looks at that
const KEPT = 2000; // events that are remembered for a page that comes later

/** One stream for everybody who follows a project. */
export class Feed {
  constructor(project, after) {
    this.project = project;
    this.after = after;
    this.floor = after; // what came after it is in `kept`
    this.kept = [];
    this.listeners = new Set();
    this.state = "connecting";
    this.since = Date.now();
    this.wait = RETRY;
    this.waiting = [];
    this.watch = setInterval(() => {
      if (this.source.readyState !== EventSource.CLOSED && Date.now() - this.heard > SILENCE) this.lose();
    }, LOOK);
    this.open();
  }

  open() {
    const source = new EventSource(`/api/v1/projects/${encodeURIComponent(this.project)}/events/stream?after=${this.after}`);
    this.source = source;
    this.heard = Date.now();
    source.onopen = () => {
      this.heard = Date.now();
      this.wait = RETRY;
      this.become("live");
    };
    source.onmessage = (event) => {
      this.heard = Date.now();
      this.take(JSON.parse(event.data));
    };
    source.addEventListener("live", (event) => {
      this.heard = Date.now();
      this.tell({ live: JSON.parse(event.data) });
    });
    source.addEventListener("pulse", () => {
      this.heard = Date.now();
    });
    source.onerror = () => {
      if (this.source === source) this.lose();
    };
  }

  /** The stream has broken, or nothing comes through any more, of which a browser says nothing. */
  lose() {
    this.become("lost");
    this.source.close();
    this.retry = setTimeout(() => this.open(), this.wait);
    this.wait = Math.min(LONGEST, 2 * this.wait);
  }

  take(event) {
    if (event.id <= this.after) return;
    this.after = event.id;
    this.kept.push(event);
    if (this.kept.length > KEPT) this.floor = this.kept.splice(0, this.kept.length - KEPT).at(-1).id;
    this.tell({ event });
  }

  become(state) {
    if (state === this.state) return;
    this.state = state;
    this.since = Date.now();
    this.send({ state: this.state, since: this.since });
  }

  tell(news) {
    this.waiting.push(news);
    this.timer ??= setTimeout(() => {
      this.timer = undefined;
      this.send({ news: this.waiting.splice(0) });
    }, GATHER);
  }

  send(message) {
    for (const listener of this.listeners) listener(message);
  }

  /** Hear of what happens after a cursor. What is too long ago to be remembered is told as a gap: read anew. */
  follow(listener, after) {
    this.listeners.add(listener);
    listener({ state: this.state, since: this.since });
    if (after < this.floor) listener({ gap: true });
    const missed = this.kept.filter((event) => event.id > after).map((event) => ({ event }));
    if (missed.length) listener({ news: missed });
    if (this.state === "lost") this.hurry();
    return () => this.listeners.delete(listener);
  }

  /** Ask again now: the network is back, or somebody looks. */
  hurry() {
    if (this.state !== "lost") return;
    clearTimeout(this.retry);
    this.source.close();
    this.open();
  }

  close() {
    clearTimeout(this.retry);
    clearTimeout(this.timer);
    clearInterval(this.watch);
    this.source.close();
  }
}
