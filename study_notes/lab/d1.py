from distill import *
m,L,S,E=prepare('city','clean',.3); print('prepared',len(E))
# teacher quality on the warm-up's own frames is unknown here; report student
A=('s1','s1f'); B=('s1','s1f','s1.25','s1.25f'); Cc=B+('s1.5','s1.5f')
run(m,L,S,E,{
 'self s1':dict(target=('s1',)),
 'mv 1,1.25,1.5 f':dict(target=Cc,wise=(.5,1.)),
 'mv 1.25,1.5 f':dict(target=Cc[2:],wise=(.5,1.)),
 'mv bal.5':dict(target=Cc,bal=.5,wise=(.5,1.)),
 'mv lr3e-3':dict(target=Cc,lr=3e-3,wise=(.5,1.)),
 'mv lr3e-4':dict(target=Cc,lr=3e-4),
},'d1')
