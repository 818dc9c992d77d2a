// SPDX-License-Identifier: GPL-2.0-only
/*
 * Run many small programs of memory operations, two or three threads each, and
 * tell what came of them: when each operation began and ended, what it
 * returned, and the state of the private range after all threads have stopped.
 *
 * Build: gcc -O2 -pthread concurrent.c -o concurrent
 * Input (stdin) and output (stdout) are streams of native u64; see tests/live/concurrent_runs.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define THREADS 3
#define OPS 16
#define PAGE 4096UL
#define MAX_PAGES 256
#define SCAN 0xC0606610UL
#define SCAN_PFNZERO 32 /* bit 5 of the categories */

enum { STORE, LOAD, MMAP, MUNMAP, MPROTECT, MADVISE, MREMAP };
static const long numbers[] = { 0, 0, SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_mremap };

struct op { uint64_t kind, delay, a[6]; };
struct answer { uint64_t start, end, ret; };
struct part { uint64_t count; struct op ops[OPS]; struct answer answers[OPS]; };

static uint64_t base, pages;
static struct part setup, parts[THREADS];
static int threads, finished;
static unsigned arrived, turn;
static __thread sigjmp_buf escape;
static __thread volatile int signalled;
static int pagemap, mem, maps;

static uint64_t now(void)
{
	struct timespec t;

	/* Nothing before may still be under way, nothing after may have begun:
	 * a store may wait in the store buffer beyond its own instruction. */
	__builtin_ia32_mfence();
	__builtin_ia32_lfence();
	clock_gettime(CLOCK_MONOTONIC, &t);
	__builtin_ia32_lfence();
	return t.tv_sec * 1000000000UL + t.tv_nsec;
}

/* A load gives what it loaded, a touch that was refused -(signal << 8 | si_code). */
static void refused(int signal, siginfo_t *info, void *context)
{
	(void)context;
	signalled = signal << 8 | (info->si_code & 0xff);
	siglongjmp(escape, 1);
}

static void run(struct op *op, struct answer *answer)
{
	long ret;

	for (volatile uint64_t i = 0; i < op->delay; i++)
		;
	if (op->kind > LOAD) {
		answer->start = now();
		ret = syscall(numbers[op->kind], op->a[0], op->a[1], op->a[2], op->a[3], op->a[4], op->a[5]);
		answer->ret = ret == -1 ? -errno : ret;
		answer->end = now();
		return;
	}
	if (sigsetjmp(escape, 0) == 0) {
		volatile uint64_t *word = (void *)op->a[0];

		answer->start = now();
		answer->ret = 0;
		if (op->kind == STORE)
			*word = op->a[1];
		else
			answer->ret = *word;
	} else {
		answer->ret = -(long)signalled;
	}
	answer->end = now();
}

/* All threads meet here; whoever waits long gives the CPU away. */
static void meet(void)
{
	unsigned before = __atomic_load_n(&turn, __ATOMIC_ACQUIRE);

	if (__atomic_add_fetch(&arrived, 1, __ATOMIC_ACQ_REL) == THREADS) {
		__atomic_store_n(&arrived, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&turn, before + 1, __ATOMIC_RELEASE);
		return;
	}
	for (int spins = 0; __atomic_load_n(&turn, __ATOMIC_ACQUIRE) == before; spins++) {
		if (spins > 2000)
			sched_yield();
		else
			__builtin_ia32_pause();
	}
}

/* A second meeting, of the threads that have something to do: the start. */
static unsigned ready, started;
static void start_together(unsigned program)
{
	if (__atomic_add_fetch(&ready, 1, __ATOMIC_ACQ_REL) == (unsigned)threads) {
		__atomic_store_n(&ready, 0, __ATOMIC_RELAXED);
		__atomic_store_n(&started, program, __ATOMIC_RELEASE);
		return;
	}
	for (int spins = 0; __atomic_load_n(&started, __ATOMIC_ACQUIRE) != program; spins++)
		if (spins > 20000)
			sched_yield();
}

static void play(int self, unsigned program)
{
	if (self >= threads)
		return;
	start_together(program);
	for (uint64_t i = 0; i < parts[self].count; i++)
		run(&parts[self].ops[i], &parts[self].answers[i]);
}

static void pin(int self)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(self % sysconf(_SC_NPROCESSORS_ONLN), &set);
	sched_setaffinity(0, sizeof(set), &set); /* where it cannot be, it is slower */
}

static void *worker(void *argument)
{
	int self = (int)(long)argument;
	unsigned program = 0;

	pin(self);
	for (;;) {
		meet();
		if (finished)
			return NULL;
		play(self, ++program);
		meet();
	}
}

static void get(void *to, size_t size)
{
	if (fread(to, 1, size, stdin) != size)
		exit(3);
}

static void put(uint64_t word)
{
	fwrite(&word, sizeof(word), 1, stdout);
}

static void get_part(struct part *part)
{
	get(&part->count, sizeof(part->count));
	if (part->count > OPS)
		exit(4);
	get(part->ops, part->count * sizeof(struct op));
}

static int zero_page(uint64_t vpn)
{
	uint64_t out[3] = { 0 };
	uint64_t request[12] = { 96, 0, vpn * PAGE, vpn * PAGE + PAGE, 0,
		(uint64_t)out, 1, 0, 0, SCAN_PFNZERO, 0, SCAN_PFNZERO };

	return ioctl(pagemap, SCAN, request) > 0;
}

/* Lines of maps: start, end, rights (r1 w2 x4 s8), offset; then a 0. */
static void put_maps(void)
{
	static char text[1 << 16];
	size_t size = 0;
	ssize_t got;

	lseek(maps, 0, SEEK_SET);
	while ((got = read(maps, text + size, sizeof(text) - 1 - size)) > 0)
		size += got;
	text[size] = 0;
	for (char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		uint64_t start, end, offset;
		char r[5];

		if (sscanf(line, "%lx-%lx %4s %lx", &start, &end, r, &offset) != 4)
			exit(5);
		if (end <= base || start >= base + pages * PAGE)
			continue;
		put(start);
		put(end);
		put((r[0] == 'r') | (r[1] == 'w') << 1 | (r[2] == 'x') << 2 | (r[3] == 's') << 3);
		put(offset);
	}
	put(0);
}

/* Present pages: vpn, kind (1 anon, 2 zero, 3 file), first word; then a 0. */
static void put_pages(void)
{
	static uint64_t words[MAX_PAGES];

	if (pread(pagemap, words, pages * 8, base / PAGE * 8) != (ssize_t)(pages * 8))
		exit(6);
	for (uint64_t i = 0; i < pages; i++) {
		uint64_t vpn = base / PAGE + i, content;

		if (!(words[i] >> 63))
			continue;
		put(vpn);
		put(words[i] >> 61 & 1 ? 3 : zero_page(vpn) ? 2 : 1);
		if (pread(mem, &content, 8, vpn * PAGE) != 8)
			exit(7);
		put(content);
	}
	put(0);
}

static void put_part(const struct part *part)
{
	for (uint64_t i = 0; i < part->count; i++) {
		put(part->answers[i].start);
		put(part->answers[i].end);
		put(part->answers[i].ret);
	}
}

int main(void)
{
	struct sigaction action = { .sa_sigaction = refused, .sa_flags = SA_SIGINFO | SA_NODEFER };
	uint64_t head[3];
	pthread_t ids[THREADS];
	unsigned program = 0;

	pagemap = open("/proc/self/pagemap", O_RDONLY);
	mem = open("/proc/self/mem", O_RDONLY);
	maps = open("/proc/self/maps", O_RDONLY);
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	pin(0);
	for (long i = 1; i < THREADS; i++)
		pthread_create(&ids[i], NULL, worker, (void *)i);
	while (fread(head, 1, sizeof(head), stdin) == sizeof(head)) {
		base = head[0];
		pages = head[1];
		threads = (int)head[2];
		if (pages > MAX_PAGES || threads > THREADS)
			exit(4);
		get_part(&setup);
		for (int i = 0; i < threads; i++)
			get_part(&parts[i]);
		for (uint64_t i = 0; i < setup.count; i++)
			run(&setup.ops[i], &setup.answers[i]);
		meet();
		play(0, ++program);
		meet();
		put_part(&setup);
		for (int i = 0; i < threads; i++)
			put_part(&parts[i]);
		put_maps();
		put_pages();
		munmap((void *)base, pages * PAGE);
	}
	finished = 1;
	meet();
	for (int i = 1; i < THREADS; i++)
		pthread_join(ids[i], NULL);
	return 0;
}
