# Stops the PostgreSQL cluster of directory $dir and removes it. Package guard runs it.
while [ -n "$(find "$dir/keep" -mmin -5 2>/dev/null)" ]; do sleep 0.2; done
home=$(cat "$dir/location" 2>/dev/null) || home=$dir
server=$(head -n 1 "$home/data/postmaster.pid" 2>/dev/null)
if [ -n "$server" ]; then
	kill -QUIT "$server" 2>/dev/null
	tries=0
	while alive "$server" && [ $tries -lt 100 ]; do tries=$((tries + 1)); sleep 0.1; done
	if alive "$server"; then kill -KILL "$server"; fi
fi
rm -rf "$home" "$dir" "$dir.lock"
