/* Ways in which a process ends: main leaves before its threads, or while they run.
 *
 * usage: mainexit leave|stay
 * leave: main ends by pthread_exit, the process with its last thread.
 * stay:  main returns while threads sleep.
 */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *work(void *endless)
{
	for (int i = 0; i < 10 || endless; i++) {
		char *block = malloc(300000);

		memset(block, i, 300000);
		usleep(10000);
		free(block);
	}
	return NULL;
}

int main(int argc, char **argv)
{
	int leave = argc > 1 && !strcmp(argv[1], "leave");
	pthread_t thread;

	for (int i = 0; i < 3; i++)
		pthread_create(&thread, NULL, work, leave ? NULL : &thread);
	usleep(30000);
	if (leave)
		pthread_exit(NULL);
	return 0;
}
