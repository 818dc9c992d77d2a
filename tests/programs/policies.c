/* Threads touch memory whose areas mbind() keeps apart, and gives back. */
#define _GNU_SOURCE
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { PAGE = 4096, PAGES = 64, PREFERRED = 1, BIND = 2, INTERLEAVE = 3, LOCAL = 4 };

static char *memory;

static int policy(int first, int pages, int mode, int with_nodes)
{
	unsigned long nodes = 1;
	return syscall(SYS_mbind, memory + first * PAGE, (long)pages * PAGE, mode,
		       with_nodes ? &nodes : NULL, with_nodes ? 64L : 0L, 0);
}

static void *touch(void *from)
{
	for (int page = (long)from; page < PAGES; page += 2)
		memory[page * PAGE] = 1;
	return NULL;
}

int main(void)
{
	pthread_t threads[2];
	int failed = 0;

	memory = mmap(NULL, (PAGES + 8) * PAGE, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(memory + PAGES * PAGE, 8 * PAGE);
	memory[0] = 1;
	failed |= policy(8, 8, INTERLEAVE, 1);
	failed |= policy(24, 8, PREFERRED, 1);
	failed |= policy(32, 8, PREFERRED, 0);	/* MPOL_LOCAL */
	failed |= policy(48, 4, BIND | 1 << 15, 1);
	failed |= policy(10, 2, 0, 0);
	failed |= policy(PAGES - 2, 8, BIND, 1) != -1;	/* beyond the end */
	failed |= policy(4, 2, 99, 1) != -1;	/* no such policy */
	for (long n = 0; n < 2; n++)
		pthread_create(&threads[n], NULL, touch, (void *)n);
	for (int n = 0; n < 2; n++)
		pthread_join(threads[n], NULL);
	return !!failed;
}
