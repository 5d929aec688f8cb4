// One stream for all tabs of this browser: with one for each, the seventh would never load over HTTP/1.1.
import { Feed } from "./feed.js";

const IDLE = 5000; // milliseconds for which a stream that nobody follows stays open
const PULSE = 5000; // milliseconds between two signs of life of a tab
const feeds = new Map();

function leave(project, stop) {
  stop();
  setTimeout(() => {
    const feed = feeds.get(project);
    if (feed && feed.listeners.size === 0) {
      feed.close();
      feeds.delete(project);
    }
  }, IDLE);
}

addEventListener("connect", (/** @type {any} */ { ports: [port] }) => {
  const following = new Map();
  let heard = Date.now();
  const gone = () => {
    clearInterval(watch);
    for (const [project, stop] of following) leave(project, stop);
    following.clear();
  };
  const watch = setInterval(() => {
    if (Date.now() - heard > 60 * PULSE) gone(); // a tab that was closed or has crashed says nothing more
  }, PULSE);
  port.onmessage = ({ data }) => {
    heard = Date.now();
    if (data.follow !== undefined) {
      let feed = feeds.get(data.follow);
      if (!feed) feeds.set(data.follow, (feed = new Feed(data.follow, data.after)));
      following.get(data.follow)?.();
      following.set(data.follow, feed.follow((message) => port.postMessage({ project: data.follow, ...message }), data.after));
    } else if (data.leave !== undefined) {
      const stop = following.get(data.leave);
      following.delete(data.leave);
      if (stop) leave(data.leave, stop);
    } else if (data.drop !== undefined) {
      feeds.get(data.drop)?.close();
      feeds.delete(data.drop);
    } else if (data.hurry) {
      for (const feed of feeds.values()) feed.hurry();
    } else if (data.bye) gone();
  };
  port.start();
});
