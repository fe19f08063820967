/**
 * Run inside the sandbox without a network: copy the source, install node_modules from the cache in DENO_DIR, check.
 *
 *     check.ts HOME LOCK ENTRY [install] [frozen] [scripts=npm:NAME,…]
 *
 * Deno runs no code of the source here. With `scripts=` the lifecycle scripts of the packages named run first.
 */

const [home, lock, entry, ...modes] = Deno.args;
const SOURCE = "/work/src";
const APP = "/work/out/app";
const FETCHED_LOCK = "/work/fetch/deno.lock";
const LEFT_OUT = new Set([".git", "node_modules", ".npmrc"]);
const here = home === "." ? APP : `${APP}/${home}`;

function copy(from: string, to: string): void {
  Deno.mkdirSync(to);
  for (const each of Deno.readDirSync(from)) {
    if (LEFT_OUT.has(each.name)) continue;
    const [source, target] = [`${from}/${each.name}`, `${to}/${each.name}`];
    if (each.isSymlink) Deno.symlinkSync(Deno.readLinkSync(source), target);
    else if (each.isDirectory) copy(source, target);
    else if (each.isFile) Deno.copyFileSync(source, target);
  }
}

function deno(...args: string[]): void {
  const done = new Deno.Command(Deno.execPath(), { args, cwd: here, stdin: "null", stdout: "inherit", stderr: "inherit" })
    .outputSync();
  if (!done.success) Deno.exit(done.code);
}

function remove(path: string): void {
  try {
    Deno.removeSync(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

copy(SOURCE, APP);
const frozen = modes.includes("frozen");
const scripts = modes.find((mode) => mode.startsWith("scripts="))?.slice("scripts=".length);
if (modes.includes("install")) {
  if (!frozen) Deno.copyFileSync(FETCHED_LOCK, `${here}/${lock}`);
  const allow = scripts ? [`--allow-scripts=${scripts}`] : [];
  deno("install", "--cached-only", `--lock=${lock}`, `--frozen=${frozen}`, ...allow, "--entrypoint", entry);
}
// As installed, not as it runs: types of a package without any are known so alone before Deno 2.9.
const locked = modes.includes("install") ? [`--lock=${lock}`, `--frozen=${frozen}`] : ["--no-lock"];
deno("check", ...locked, entry);
for (const name of [".deno.lock", ".deno.lock.poll", ".setup-cache.bin"]) remove(`${here}/node_modules/.deno/${name}`);
