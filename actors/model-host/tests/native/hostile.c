/* A library that a model host has mapped before it is confined, as the native code of a hostile model would be. The host
 * calls malloc_trim once it has loaded its model: the library then tries what a model must not do, and writes one line
 * per attempt. What it attacks comes from the environment; without that it does nothing.
 *
 * With END_MAIN_THREAD set, it ends the main thread there and leaves another one. With STALL set, the process stops while it
 * confines itself.
 *
 * With LACKS_CAPABILITY set, the process begins without that capability. With LANDLOCK set, it answers as a kernel with that version of Landlock; 0 for none. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static long (*real_syscall)(long, ...);

static void drop_capability(int capability)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[2];

	if (real_syscall(SYS_capget, &header, sets) < 0)
		_exit(1);
	sets[capability / 32].effective &= ~(1U << capability % 32);
	sets[capability / 32].permitted &= ~(1U << capability % 32);
	if (real_syscall(SYS_capset, &header, sets) < 0)
		_exit(1);
}

__attribute__((constructor)) static void find_real_syscall(void)
{
	real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	if (getenv("LACKS_CAPABILITY"))
		drop_capability(atoi(getenv("LACKS_CAPABILITY")));
}

/* With KEEPS_USER set, as where a profile refuses it. */
int setresuid(uid_t real, uid_t effective, uid_t saved)
{
	if (getenv("KEEPS_USER")) {
		errno = EPERM;
		return -1;
	}
	return real_syscall(SYS_setresuid, real, effective, saved);
}

long syscall(long number, ...)
{
	va_list list;
	long argument[6];

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		argument[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_landlock_create_ruleset && getenv("STALL"))
		sleep(600);
	if (number == SYS_landlock_create_ruleset && getenv("LANDLOCK")) {
		int version = atoi(getenv("LANDLOCK"));

		if (version == 0) {
			errno = ENOSYS;
			return -1;
		}
		if (argument[2] == 1) /* LANDLOCK_CREATE_RULESET_VERSION */
			return version;
	}
	return real_syscall(number, argument[0], argument[1], argument[2], argument[3], argument[4],
			    argument[5]);
}

static void report(const char *attempt, long result)
{
	char line[100];
	const char *error = result < 0 ? strerrorname_np(errno) : "done";
	int length = snprintf(line, sizeof line, "attempt %s: %s\n", attempt, error);

	if (write(STDERR_FILENO, line, length) < 0)
		_exit(1);
}

/* The descriptor of this process whose link has this text; -1 for none. */
static int find_descriptor(const char *text)
{
	char path[64], link[256];

	for (int file = 3; file < 64; file++) {
		snprintf(path, sizeof path, "/proc/self/fd/%d", file);
		ssize_t length = readlink(path, link, sizeof link - 1);
		link[length < 0 ? 0 : length] = 0;
		if (strstr(link, text))
			return file;
	}
	return -1;
}

static void attack_files(const char *secret, const char *new_file, int server)
{
	/* What the handler of denied calls adds to its own. */
	const long mark = 0x68656164726f6f6d;
	char path[64], byte;
	int file = open(secret, O_RDONLY);

	report("to read a file", file < 0 ? -1 : read(file, &byte, 1));
	report("to write a file", open(new_file, O_CREAT | O_WRONLY, 0600));
	snprintf(path, sizeof path, "/proc/%d/environ", server);
	file = open(path, O_RDONLY);
	report("to read the server's environment", file < 0 ? -1 : read(file, &byte, 1));
	report("to write with the mark",
	       real_syscall(SYS_openat, (long)AT_FDCWD, (long)secret, (long)O_RDWR, 0L, 0L, mark));
	snprintf(path, sizeof path, "/proc/self/fd/%d", find_descriptor("model.pt"));
	report("to truncate its model", open(path, O_RDONLY | O_TRUNC));
}

static void attack_network(int port)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
	};
	int client = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	report("to make a socket", client);
	report("to connect", connect(client, (struct sockaddr *)&address, sizeof address));
	report("to listen", listen(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), 1));
}

/* What it shares with the server. */
static void attack_descriptors(void)
{
	char byte;
	struct msghdr message = { 0 };
	int arena = find_descriptor("/memfd:"), server = find_descriptor("socket:");
	int flags = fcntl(arena, F_GETFL);
	int changed = fcntl(arena, F_SETFL, flags | O_APPEND);

	report("to append to its arena", changed);
	if (changed == 0)
		fcntl(arena, F_SETFL, flags);
	report("to send a message", sendmsg(server, &message, 0));
	report("to receive urgent data", recv(server, &byte, 1, MSG_OOB | MSG_DONTWAIT));
}

static void attack_processes(int server, int victim)
{
	char byte;
	struct rlimit limit;
	struct iovec local = { &byte, 1 }, remote = { &byte, 1 };
	long child = real_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);

	if (child == 0)
		_exit(0);
	report("to fork", child);
	if (child > 0)
		waitpid(child, NULL, 0);
	report("to execute a program", execl("/nonexistent", "nonexistent", NULL));
	report("to limit a process", prlimit(victim, RLIMIT_NOFILE, NULL, &limit));
	report("to read a process", process_vm_readv(server, &local, 1, &remote, 1, 0));
	report("to trace a process", ptrace(PTRACE_SEIZE, victim, 0, 0));
	report("to kill a process", kill(victim, SIGKILL));
}

static void attack_itself(void)
{
	struct sigaction action = { .sa_handler = SIG_IGN };

	report("to make a memory file", memfd_create("x", 0));
	report("to leave its namespaces", unshare(0));
	report("to replace the handler", sigaction(SIGSYS, &action, NULL));
}

static void *stay(void *argument)
{
	sleep(600);
	return argument;
}

int malloc_trim(size_t pad)
{
	const char *secret = getenv("SECRET");

	(void)pad;
	if (getenv("END_MAIN_THREAD")) {
		pthread_t thread;

		if (pthread_create(&thread, NULL, stay, NULL) == 0)
			real_syscall(SYS_exit, 0);
	}
	if (getenv("BLOCK_SIGNALS")) {
		sigset_t all;

		sigfillset(&all);
		sigprocmask(SIG_BLOCK, &all, NULL);
		report("to make a socket", socket(AF_INET, SOCK_STREAM, 0));
	}
	if (secret) {
		int server = atoi(getenv("SERVER")), victim = atoi(getenv("VICTIM"));

		attack_files(secret, getenv("NEW_FILE"), server);
		attack_network(atoi(getenv("PORT")));
		attack_descriptors();
		attack_processes(server, victim);
		attack_itself();
	}
	return 0;
}
