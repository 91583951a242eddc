// Package embedpg runs a private PostgreSQL cluster out of a directory: the server binaries come from the machine (see
// Config.BinDir for where it looks) or, failing that, from a download into the user's cache.
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
