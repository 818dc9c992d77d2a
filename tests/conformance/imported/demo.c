#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
/* Two threads that map and touch, and a child that copies on write. */
static void *touch(void *none)
{
	for (int i = 0; i < 3; i++) {
		char *p = mmap(0, 8 << 12, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		for (int n = 0; n < 8; n++)
			p[n << 12] = 1;
		mprotect(p, 4 << 12, PROT_READ);
		madvise(p + (4 << 12), 2 << 12, MADV_DONTNEED);
		munmap(p, 8 << 12);
	}
	return none;
}
int main(void)
{
	pthread_t one;
	char *heap = malloc(100 << 10);
	memset(heap, 1, 100 << 10);
	pthread_create(&one, 0, touch, 0);
	touch(0);
	pthread_join(one, 0);
	pid_t child = fork();
	if (child == 0) {
		heap[0] = 2;
		_exit(0);
	}
	wait(0);
	return 0;
}
