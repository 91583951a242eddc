# Waits until process $2 has ended or directory $1 was removed, then runs the script $3, which may use $dir and alive.
dir=$1 owner=$2
alive() { # a zombie has ended
	kill -0 "$1" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$1/status" 2>/dev/null
}
while alive "$owner" && [ -d "$dir" ]; do sleep 0.5; done
eval "$3"
