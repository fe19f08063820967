// Drawings by their names: each is a module of a package of 28,004 files, of which any may be asked for.
import { start } from "ignite";
import type { IconifyIcon } from "@iconify/types";
import home from "@iconify-icons/mdi/home.js";
import rocket from "@iconify-icons/mdi/rocket-launch.js";

const icons: Record<string, IconifyIcon> = { home, rocket };

start((payload) => {
  const icon = icons[new TextDecoder().decode(payload)];
  if (!icon) return new Response("no such drawing", { status: 404 });
  return `<svg viewBox="0 0 ${icon.width} ${icon.height}">${icon.body}</svg>`;
});
